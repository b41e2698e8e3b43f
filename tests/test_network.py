"""Tests connect to no other machine, and those that try are told: see conftest.py."""

import socket

import pytest

# addresses that are set aside for examples
OTHERS = [(socket.AF_INET, '192.0.2.1'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '2001:db8::1')]


@pytest.mark.parametrize('way', ['connect', 'connect_ex'])
@pytest.mark.parametrize('family, host', OTHERS)
def test_no_other_machine_is_reached(family, host, way):
    try:
        each = socket.socket(family)
    except OSError:
        pytest.skip('no sockets of this family here')
    with each, pytest.raises(RuntimeError, match=f'Tests need no network: .* not to {host}'):
        getattr(each, way)((host, 80))


def test_no_name_is_looked_up():
    with pytest.raises(RuntimeError, match=r'not to host\.invalid'):
        socket.create_connection(('host.invalid', 80))
    with pytest.raises(RuntimeError, match=r'not to host\.invalid'):
        socket.gethostbyname('host.invalid')


@pytest.mark.parametrize('host', ['127.0.0.1', '127.1.2.3', 'localhost', '::1'])
def test_this_machine_is_reached(host):
    family, listening = (socket.AF_INET6, '::1') if ':' in host else (socket.AF_INET, '0.0.0.0')
    with socket.socket(family) as server:
        try:
            server.bind((listening, 0))
        except OSError:
            pytest.skip(f'{listening} cannot be had here')
        server.listen()
        socket.create_connection((host, server.getsockname()[1])).close()


def test_sockets_in_files_are_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # their names must be short
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind('socket')
        server.listen()
        client.connect('socket')
