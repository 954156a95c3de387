"""The site that `make docs` builds with Sphinx from the pages in the repository, as they are."""

project = "steer"
author = copyright = "The steer authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "examples/README.md",
    "benchmarks/results/*.md",
]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "steer"
html_show_sphinx = False
nitpicky = True
suppress_warnings = ["toc.not_included", "myst.header"]  # pages under benchmarks/results are linked to, not listed
