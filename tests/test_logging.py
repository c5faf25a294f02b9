from sclm_hf.logging import counted


def test_a_number_has_its_noun_in_the_right_form():
    assert [counted(number, "cell") for number in (0, 1, 2, 1234)] == ["0 cells", "1 cell", "2 cells", "1,234 cells"]
