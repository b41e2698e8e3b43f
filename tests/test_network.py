"""Tests that tests cannot connect to other hosts, and that an attempt raises an error; see conftest.py."""

import socket

import pytest

# addresses reserved for documentation
OTHERS = [(socket.AF_INET, '192.0.2.1'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '2001:db8::1')]


@pytest.mark.parametrize('way', ['connect', 'connect_ex'])
@pytest.mark.parametrize('family, host', OTHERS)
def test_connections_to_other_hosts_are_rejected(family, host, way):
    try:
        each = socket.socket(family)
    except OSError:
        pytest.skip('no sockets of this family here')
    with each, pytest.raises(RuntimeError, match=f'Tests need no network: .* not to {host}'):
        getattr(each, way)((host, 80))


def test_name_lookups_are_rejected():
    with pytest.raises(RuntimeError, match=r'not to host\.invalid'):
        socket.create_connection(('host.invalid', 80))
    with pytest.raises(RuntimeError, match=r'not to host\.invalid'):
        socket.gethostbyname('host.invalid')


@pytest.mark.parametrize('host', ['127.0.0.1', '127.1.2.3', 'localhost', '::1'])
def test_connections_to_this_host_are_allowed(host):
    family, listening = (socket.AF_INET6, '::1') if ':' in host else (socket.AF_INET, '0.0.0.0')
    with socket.socket(family) as server:
        try:
            server.bind((listening, 0))
        except OSError:
            pytest.skip(f'{listening} cannot be had here')
        server.listen()
        socket.create_connection((host, server.getsockname()[1])).close()


def test_unix_sockets_are_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the paths of unix sockets must be short
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind('socket')
        server.listen()
        client.connect('socket')
