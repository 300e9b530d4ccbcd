"""The record of a growing field, and what follows from its lineage and positions."""

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.interpret.growth_frames import (
    GrowthRecord,
    families,
    parent_index,
)
from tests.crystalline.interpret.growing import census, grown


def same(a: GrowthRecord, b: GrowthRecord) -> bool:
    """Whether all frames and curves are equal, kinds of numbers included."""
    if (a.epochs, a.losses, len(a.frames)) != (b.epochs, b.losses, len(b.frames)):
        return False
    for one, other in zip(a.frames, b.frames, strict=True):
        if (one.epoch, one.text, list(one.fields)) != (other.epoch, other.text, list(other.fields)):
            return False
        for site, members in one.fields.items():
            for name, column in members.items():
                twin = other.fields[site][name]
                if column.dtype != twin.dtype or not np.array_equal(column, twin):
                    return False
    return True


def test_a_record_is_the_same_when_it_has_been_saved_and_read(tmp_path):
    record = grown(sites=2, text="ü $x$\nline")
    record.add(20, {"blocks.1.field": census([1], [-1], d=3), "late": census([4, 6], [-1, 4], d=2)})
    record.save(tmp_path / "growth.npz")
    found = GrowthRecord.load(tmp_path / "growth.npz")
    assert same(record, found)
    assert found.sites() == ["blocks.0.field", "blocks.1.field", "late"]
    assert list(found.frames[-1].fields) == ["blocks.1.field", "late"]
    assert found.frames[0].fields["blocks.0.field"]["positions"].dtype == np.float16


def test_a_record_that_was_read_goes_on(tmp_path):
    whole, part = grown(), grown()
    part.frames.pop()
    part.save(tmp_path / "growth.npz")
    part = GrowthRecord.load(tmp_path / "growth.npz")
    assert not same(whole, part)
    part.frames.append(whole.frames[-1])
    assert same(whole, part)
    assert whole.to_bytes() == part.to_bytes()


def test_a_record_does_not_change_with_the_census_it_was_made_of():
    found = census([0, 1], [-1, 0])
    record = GrowthRecord(5)
    record.add(1, {"field": found})
    before = record.to_bytes()
    for column in found.values():
        column.copy_(torch.ones_like(column))
    assert record.to_bytes() == before


@pytest.mark.parametrize("content", [None, b"nothing", b""])
def test_what_is_no_record_is_named(tmp_path, content):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is no record of growth"):
        GrowthRecord.load(path)


def test_a_family_is_all_who_descend_from_a_founder():
    row = np.array([2, 3, 5, 8, 9, 11])
    parent = np.array([-1, 2, 11, 3, -1, 9])  # a child's row may be below its parent's
    assert parent_index(row, parent).tolist() == [-1, 0, 5, 1, -1, 4]
    assert families(row, parent).tolist() == [2, 2, 9, 2, 9, 9]
