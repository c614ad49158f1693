"""Sphinx's settings: the Markdown pages here, and the command reference from the commands themselves."""

import click

import hemoscan
from hemoscan.cli import cli

project = "hemoscan"
version = release = hemoscan.__version__
project_copyright = "the hemoscan authors"

extensions = ["myst_parser", "sphinx_click"]
exclude_patterns = ["_build"]
highlight_language = "none"
myst_heading_anchors = 3
# Quotes and dots, but no dashes: options begin with two hyphens.
smartquotes_action = "qe"

# Self-contained: nothing on a page is loaded from elsewhere.
html_theme = "furo"
html_title = f"hemoscan {release}"
html_show_sourcelink = False
html_copy_source = False

# sphinx-click lists what a group has loaded: commands that are imported when they are called are loaded here.
for name in cli.list_commands(click.Context(cli)):
    command = cli.get_command(click.Context(cli), name)
    if command is not None:
        cli.add_command(command, name)
