import os
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import StorageError
from lorakit.io.pack import Pack


def key(number):
    return bytes([number]) * 32


def arrays(number):
    return {"mean": np.full((2, 3), number, np.float32), "": np.arange(number, dtype=np.float32)}


def filled(path, numbers):
    pack = Pack(path)
    for number in numbers:
        pack.put(key(number), arrays(number))
    return pack


def holds(pack, number):
    found = pack.get(key(number))
    if found is None:
        return False
    assert found.keys() == arrays(number).keys()
    for name, array in arrays(number).items():
        np.testing.assert_array_equal(found[name], array)
    return True


def test_what_is_put_in_is_there_again(tmp_path):
    pack = filled(tmp_path / "deep" / "a.pack", range(5))
    pack.sync()
    assert all(holds(again, n) for again in (pack, Pack(pack.path)) for n in range(5))
    assert pack.get(key(9)) is None and key(9) not in pack and len(pack) == 5


def test_nothing_is_written_until_something_is_put_in(tmp_path):
    assert Pack(tmp_path / "a.pack").get(key(1)) is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_record_of_a_key_counts(tmp_path):
    pack = filled(tmp_path / "a.pack", [1])
    pack.put(key(1), arrays(2))
    np.testing.assert_array_equal(Pack(pack.path).get(key(1))["mean"], arrays(2)["mean"])


def test_an_alias_gives_what_the_other_gives(tmp_path):
    pack = filled(tmp_path / "a.pack", [1])
    pack.same(key(2), key(1))
    np.testing.assert_array_equal(Pack(pack.path).get(key(2))["mean"], arrays(1)["mean"])


def test_a_file_cut_anywhere_keeps_the_whole_records_and_goes_on(tmp_path):
    whole = filled(tmp_path / "a.pack", [1, 2, 3]).path.read_bytes()
    third = len(whole) // 3
    for cut in [*range(0, len(whole), 7), len(whole) - 1]:
        file = tmp_path / "cut.pack"
        file.write_bytes(whole[:cut])
        pack = Pack(file)
        there = [n for n in (1, 2, 3) if holds(pack, n)]
        assert there == [1, 2, 3][: len(there)] and len(there) >= cut // third - 1
        for n in (1, 2, 3):
            pack.put(key(n), arrays(n)) if n not in there else None
        assert all(holds(Pack(file), n) for n in (1, 2, 3))


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 10**9), st.integers(1, 3))
def test_a_flipped_bit_harms_one_record_at_most_and_is_never_believed(tmp_path_factory, seed, flips):
    file = tmp_path_factory.mktemp("pack") / "a.pack"
    data = bytearray(filled(file, range(1, 8)).path.read_bytes())
    draw = random.Random(seed)
    for _ in range(flips):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    pack = Pack(file)
    assert sum(holds(pack, n) for n in range(1, 8)) >= 7 - flips


def test_a_length_that_lies_is_not_followed(tmp_path):
    file = filled(tmp_path / "a.pack", [1, 2]).path
    data = bytearray(file.read_bytes())
    data[40:48] = struct.pack("<Q", 1 << 60)
    file.write_bytes(data)
    pack = Pack(file)
    assert not holds(pack, 1) and holds(pack, 2)


def test_compacting_keeps_what_is_named_with_what_it_stands_for(tmp_path):
    pack = filled(tmp_path / "a.pack", range(1, 9))
    pack.same(key(20), key(2))
    assert not pack.compact([key(n) for n in range(1, 8)])
    size = pack.path.stat().st_size
    assert pack.compact([key(20), key(3)])
    assert holds(pack, 2) and holds(pack, 3) and not holds(pack, 4) and len(pack) == 3
    assert pack.path.stat().st_size < size / 2
    pack.put(key(4), arrays(4))
    assert holds(Pack(pack.path), 4) and Pack(pack.path).get(key(20)) is not None


def test_two_writers_of_one_file_do_not_harm_each_other(tmp_path):
    one, two = Pack(tmp_path / "a.pack"), Pack(tmp_path / "a.pack")
    for number in range(10):
        (one if number % 2 else two).put(key(number), arrays(number))
    assert all(holds(Pack(one.path), number) for number in range(10))
    assert all(holds(one, number) == bool(number % 2) for number in range(10))


@pytest.mark.posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_storage_error(tmp_path):
    (tmp_path / "full.pack").symlink_to("/dev/full")
    pack = Pack(tmp_path / "nowhere")
    pack.path = tmp_path / "full.pack"
    with pytest.raises(StorageError, match="No space left"):
        pack.put(key(1), arrays(1))
