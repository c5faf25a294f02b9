import jinja2
import pytest

from sclm_hf import cards


@pytest.fixture
def template(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path)
    return tmp_path / "note.md"


def test_a_cell_of_a_table_cannot_break_it(template):
    template.write_text('{{ rows | table("name", "cells") }}')
    assert cards.render("note", rows=[("a|b\nc", 12345)]) == "| name | cells |\n| --- | --- |\n| a\\|b c | 12,345 |"


def test_a_name_without_a_fact_is_an_error(template):
    template.write_text("{{ license }}")
    with pytest.raises(jinja2.UndefinedError, match="license"):
        cards.render("note")
