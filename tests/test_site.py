"""Tests the site that `make docs` builds, if there is one: it needs no other host, and works when opened from disk."""

import importlib.util
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

SITE = Path(__file__).parents[1] / 'build/site'
PAGES = [path for path in sorted(SITE.rglob('*.html')) if path.name != '404.html']  # whose links need a server
CHROMIUM = shutil.which('chromium')

pytestmark = pytest.mark.skipif(not PAGES, reason='run make docs first')
BROWSER = CHROMIUM and importlib.util.find_spec('playwright')


class References(HTMLParser):
    """The files that a page names: resources, which the browser loads, and links."""

    def __init__(self, page):
        super().__init__()
        self.resources, self.links = [], []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        is_resource = tag == 'link' and attributes.get('rel') not in ('canonical', 'next', 'prev', 'edit')
        for key in ('href', 'src', 'srcset', 'data', 'poster'):
            if attributes.get(key):
                (self.resources if key != 'href' or is_resource else self.links).append(attributes[key])


def test_pages_load_nothing_from_other_hosts():
    loaded = {resource for page in PAGES for resource in References(page).resources}
    assert any(resource.endswith('.js') for resource in loaded)
    assert not [resource for resource in loaded if resource.startswith(('http:', 'https:', '//'))]


def test_style_sheets_load_nothing_from_other_hosts():
    sheets = list(SITE.rglob('*.css'))
    assert sheets
    assert not [sheet for sheet in sheets if 'url(http' in sheet.read_text() or 'url("http' in sheet.read_text()]


def test_links_between_pages_lead_to_files():
    dead = []
    for page in PAGES:
        found = References(page)
        for link in found.resources + found.links:
            path = unquote(link.partition('#')[0].partition('?')[0])
            if path and ':' not in path and not (page.parent / path).exists():
                dead.append((str(page.relative_to(SITE)), link))
    assert not dead


def test_links_to_configs_lead_to_pages():
    configs = [link for page in PAGES for link in References(page).links if '.py' in link and ':' not in link]
    assert len(configs) > 50
    assert not [link for link in configs if not link.partition('#')[0].endswith('.py.html')]


@pytest.fixture
def visit():
    """Opens a page from disk, and returns it and the addresses that it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])

        def visit(path, width):
            page, requests = browser.new_page(viewport=dict(width=width, height=900)), []
            page.on('request', lambda request: requests.append(request.url))
            page.goto((SITE / path).as_uri())
            return page, requests

        yield visit
        browser.close()


def is_elsewhere(address):
    return not address.startswith(('file:', 'data:', 'about:', 'blob:'))


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason='playwright and chromium are needed')
@pytest.mark.parametrize('width', [1280, 390])
def test_search_works_from_disk(visit, width):
    page, requests = visit('docs/install.html', width)
    if width < 1000:
        page.locator('label[for=__search]:visible').first.click()
    page.locator('input[name=query]').click()
    page.keyboard.type('learning rate')
    page.get_by_text('matching documents').wait_for()
    assert page.locator('.md-search-result__link').count() >= 10
    page.locator('.md-search-result__link').first.click()
    page.wait_for_url(re.compile(r'^file:(?!.*install\.html)'))
    assert not list(filter(is_elsewhere, requests))


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason='playwright and chromium are needed')
@pytest.mark.parametrize('width', [1280, 390])
def test_diagram_is_displayed_and_pages_do_not_scroll_sideways(visit, width):
    page, _ = visit('docs/design.html', width)
    picture = page.locator('img[src$="packages.svg"]')
    assert picture.evaluate('picture => picture.naturalWidth') > 300
    assert picture.bounding_box()['width'] <= width
    assert page.evaluate('document.documentElement.scrollWidth') == width


@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason='playwright and chromium are needed')
def test_copy_buttons_lie_beside_the_code(visit):
    page, _ = visit('docs/mm_tools.html', 390)
    blocks = page.locator('.highlight').all()
    assert len(blocks) > 25
    for block in blocks:
        code, button = block.locator('code').bounding_box(), block.locator('.md-code__button, .md-clipboard').first
        assert code['x'] + code['width'] <= button.bounding_box()['x']
