"""Files are complete, also if several ranks write the same file at once."""

import json
import subprocess
import sys

CODE = """
import sys
from mmengine import dump
from mmvmamba.engine.whole_files import write_whole_files
write_whole_files()
path, rank = sys.argv[1], int(sys.argv[2])
for i in range(100):
    dump(dict(rank=rank, values=['x' * 100 * rank] * 20), path)
"""


def test_metrics_that_all_ranks_write_are_one_complete_document(tmp_path):
    path = tmp_path / 'metrics.json'
    ranks = [subprocess.Popen([sys.executable, '-c', CODE, str(path), str(rank)]) for rank in range(4)]
    assert [rank.wait() for rank in ranks] == [0] * 4
    assert json.loads(path.read_text())['rank'] in range(4)
    assert [file.name for file in tmp_path.iterdir()] == ['metrics.json']
