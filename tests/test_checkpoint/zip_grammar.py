"""Zip files by their grammar: records, headers, directories and ends that contradict one another."""

import io
import random
import zipfile

from .raw import deflated, local, record, two_directories, zip_of, zip_of_64

NUMBERS = (0, 1, 22, 64, 1000, 2**16 - 1, 2**31, 2**32 - 1)
LONG_NUMBERS = (*NUMBERS, 2**40, 2**62, 2**64 - 1)


def changed_zip(honest: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """A zip file with the records of an honest one, and whether other weights may come of it."""
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        records = [record(name, archive.read(name)) for name in archive.namelist()]
    kind = chance.randrange(10)
    number = chance.randrange(len(records))
    if kind == 0:  # a field of one record
        field = chance.choice(('crc', 'size', 'stored_size', 'method', 'flags', 'disk', 'at', 'local_name', 'name'))
        value = chance.choice(NUMBERS)
        if field.endswith('name'):
            value = chance.choice(
                (b'', b'/', b'../data.pkl', b'\xff', records[0]['name'], records[number]['name'] + b'x')
            )
        elif field in ('method', 'flags', 'disk'):
            value %= 2**16
        records[number] = records[number] | {field: value}
        return zip_of(records), field not in ('crc', 'size', 'stored_size')
    if kind == 1:
        field = chance.choice(('count', 'size', 'offset'))
        return zip_of(records, **{field: chance.choice(NUMBERS[:5] if field == 'count' else NUMBERS)}), False
    if kind == 2:
        return zip_of_64(
            records, **{chance.choice(('count', 'size', 'offset', 'at')): chance.choice(LONG_NUMBERS)}
        ), False
    if kind == 3:
        other = list(records)
        other[number] = record(records[number]['name'].decode(), chance.randbytes(len(records[number]['stored'])))
        return chance.choice((two_directories(records, other), two_directories(other, records))), False
    if kind == 4:
        return zip_of(records, comment=chance.choice((b'PK\5\6', chance.randbytes(30), zip_of(records[-1:])))), False
    if kind == 5:
        records[number] = deflated(records[number]['name'].decode(), records[number]['stored'])
        return zip_of(records), False
    if kind == 6:  # the same place for two records
        places = [sum(len(local(entry)) for entry in records[:first]) for first in range(len(records))]
        records[number] = records[number] | {'at': chance.choice(places)}
        return zip_of(records), True
    if kind == 7:
        extra = chance.choice(('x/data/0', 'archive/data/0', records[number]['name'].decode(), 'archive/.data', ''))
        return zip_of([*records, record(extra, chance.randbytes(8))]), True
    if kind == 8:
        whole = zip_of_64(records) if chance.random() < 0.5 else zip_of(records)
        place = chance.randrange(max(0, len(whole) - 2000), len(whole) + 1)
        return whole[:place] + chance.randbytes(chance.choice((1, 4, 64))) + whole[
            place + chance.choice((0, 1, 4)) :
        ], True
    chance.shuffle(records)  # the order does not matter
    return (zip_of_64 if chance.random() < 0.5 else zip_of)(records), False
