"""Published checkpoints, evaluated as their authors did: whether the levels that they state come out here, too."""

from migrl.peers.judge import Judged, judge, leave_out, read_stored
from migrl.peers.load import PEERS_FILE, Peer, load_peers
from migrl.peers.page import write_page
from migrl.peers.run import run_peers

__all__ = [
    "PEERS_FILE",
    "Judged",
    "Peer",
    "judge",
    "leave_out",
    "load_peers",
    "read_stored",
    "run_peers",
    "write_page",
]
