from crystalline.text_table import text_table


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [{"name": "a", "share": 0.5, "on": True}, {"name": "longer", "share": 1, "on": False}]
    assert text_table(rows).splitlines() == [
        "name    share   on",
        "a       0.5000  *",
        "longer  1",
    ]
