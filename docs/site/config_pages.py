"""Hooks of MkDocs: each config of the repository gets a page with its source, and links to the config lead there."""

import re

from mkdocs.structure.files import File

CONFIG = re.compile(r'configs/.*\.py')


def on_files(files, config):
    for file in list(files):
        if CONFIG.fullmatch(file.src_uri):
            files.remove(file)
            with open(file.abs_src_path) as source:
                code = source.read()
            page = f'---\nsearch:\n  exclude: true\n---\n# {file.src_uri}\n\n```python\n{code}```\n'
            files.append(File.generated(config, f'{file.src_uri}.md', content=page))
    return files


def on_page_markdown(markdown, page, config, files):
    return re.sub(r'(\]\([^)\s]*configs/[^)\s]*\.py|\]\([\w-]+\.py)\)', r'\1.md)', markdown)
