import pytest

from launching import start_fork_server


@pytest.fixture(scope="session", autouse=True)
def fork_server():
    start_fork_server()
