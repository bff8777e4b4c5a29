"""Hand settings.ini to setuptools: requirements, extras and entry points; map templates/ into the package."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(HERE / "settings.ini", encoding="utf-8")


def lines(section: str, key: str) -> list[str]:
    return [line.strip() for line in config.get(section, key).splitlines() if line.strip()]


extras = {key: lines("extras", key) for key in config["extras"] if key not in config.defaults()}
scripts = [f"{key} = {config['scripts'][key]}" for key in config["scripts"] if key not in config.defaults()]

setup(
    version=re.findall(r'__version__ = "(.+)"', (HERE / "deploy_ext/__init__.py").read_text())[0],
    install_requires=lines("DEFAULT", "requirements"),
    extras_require=extras,
    entry_points={"console_scripts": scripts},
    packages=["deploy_ext", "deploy_ext.serve", "deploy_ext.templates"],
    package_dir={"deploy_ext.templates": "templates"},
    package_data={"deploy_ext.templates": ["*.ipynb", "*/*"], "deploy_ext.serve": ["*.html"]},
    include_package_data=False,
)
