"""What is generated is not stale."""

from pathlib import Path

from worker.tools.reference import BEGIN, END, with_table

README = Path(__file__).parents[2] / "README.md"


def test_the_configuration_table_is_what_the_settings_say() -> None:
    readme = README.read_text()

    assert BEGIN in readme
    assert END in readme
    assert readme == with_table(readme), "type `make docs`"
