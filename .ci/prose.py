"""Checks the English of the Markdown pages with proselint and the style rules of this project.

    python .ci/prose.py            # all tracked pages
    python .ci/prose.py PAGE ...

The exit status is 1 if a page has a problem.
"""

import re
import subprocess
import sys
from pathlib import Path

from proselint.checks import __register__ as GENERAL
from proselint.config import DEFAULT
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, Padding, engine, types
from proselint.tools import LintFile

# Disabled checks: those for typeset prose (curly quotes, the multiplication sign), and those that report "resume",
# "multiply-add" and ranges of numbers as errors.
SWITCHED_OFF = ('typography.symbols', 'typography.diacritical_marks', 'misc.phrasal_adjectives', 'dates_times.dates')
CHECKS = {**dict.fromkeys(SWITCHED_OFF, False), **DEFAULT['checks'], 'style': True}

# Expressions to avoid, as regular expressions for whole words, and their replacements.
STYLE = {
    r'(?<!there\s)(?:is|are|was|were) none': 'a verb with "not"',
    r'(?:this|that|which|what) (?:is|are) no': '"is not a"',
    r'of which (?:the|an?|one|only|nobody|they|it)': 'a relative clause with "whose", or a second sentence',
    r'(?:house|rooms?|arrows?|walk(?:s|ed|ing)?|life of)': 'the technical term: package, dependency, scan, path',
    r'(?:believes?|believed|judges?|judged)': 'what the program does: checks, accepts, rejects',
    r'(?:program|kernel|model|tool|config|file|run)s? wants?': '"needs" or "requires"',
    r'(?:log|file|message|line|page|config|command|tool)s? (?:says?|said)': '"reports", "states" or "names"',
    r'as (?:it|they|he|these|those) stands?': '"unchanged"',
    r'stands? (?:there|here|beside|alone)': '"is"',
    r'lies? (?:in|beside|there|here)': '"is in"',
    r'beside': '"next to" or "compared with"',
    r'(?:nobody|no one) (?:\w+s|\w+ed|had|has)': 'the passive voice with "not", or "un-": unused, uninterrupted',
    r'(?:refused|rejected) in one sentence': '"rejected with a one-line error"',
    r'(?:has|have) to do without': '"does not have"',
    r'in the place of': '"instead of"',
    r'of no (?:sense|use)': '"invalid" or "useless"',
    r'(?:anew|whence|wherein|thereof|how-\w+th)': 'a modern word',
    r'(?:in|by) turns': '"alternately"',
}


def check_of(avoid: str, instead: str) -> Check:
    pattern = Padding.WORDS_IN_TEXT.format(avoid.replace(' ', r'\s+'))
    return Check(
        types.ExistenceSimple(pattern),
        path='style.plain_english',
        message=f"'{{}}' is hard to read: use {instead}.",
        engine=engine.Fancy(),
    )


QUESTION = Check(
    types.ExistenceSimple(r'\n#+ [^\n]*\?'),
    path='style.headings',
    message="'{}': a heading names a topic or a task instead of asking a question.",
    engine=engine.Fancy(),
    offset=(1, 0),
)


def prose_of(page: str) -> str:
    """Masks code, URLs and comments of a page, character by character, so that positions do not change."""
    code = re.compile(r'^```.*?^```|<!--.*?-->|(`+).+?\1|(?<=\])\([^)]*\)|https?://\S+', re.M | re.S)
    return code.sub(lambda match: re.sub(r'\S', '~', match[0]), page)


def problems_in(name: str, page: str) -> list[str]:
    """Returns one line per problem, with its position."""
    lint, problems = LintFile(name, prose_of(page)), []
    for result, (row, column) in lint.lint({'max_errors': 1000, 'checks': CHECKS}):
        is_word_of_heading = '\n\n' in lint.content[slice(*result.span)]  # repeated in the paragraph below it
        if not is_word_of_heading:
            problems.append(f'{name}:{row}:{column}: {" ".join(result.message.split())}')
    return problems


CheckRegistry().register_many((*GENERAL, *(check_of(*rule) for rule in STYLE.items()), QUESTION))


def main() -> None:
    pages = sys.argv[1:] or subprocess.check_output(['git', 'ls-files', '*.md'], text=True).split()
    problems = [problem for page in pages for problem in problems_in(page, Path(page).read_text())]
    print(*problems, sep='\n', end='\n' if problems else '')
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
