"""OpenStack Swift with its S3 interface, all servers in one process: `serve.py FOLDER`.

Runs in Swift's own environment. Prints the port of the S3 interface once it answers. One replica on
one device under FOLDER, which needs extended attributes; no memcached. Key `test:tester`, secret
`testtest`.
"""

import sys
from pathlib import Path

import eventlet

eventlet.monkey_patch(os=False, thread=True)

from eventlet import wsgi
from swift.common import utils
from swift.common.ring import RingBuilder
from swift.common.storage_policy import reload_storage_policies
from swift.common.wsgi import loadapp

KINDS = ("account", "container", "object")
COMMON = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_level = ERROR
bind_ip = 127.0.0.1
"""
SWIFT = """[swift-hash]
swift_hash_path_suffix = quire
swift_hash_path_prefix = tests
[storage-policy:0]
name = one
default = yes
"""
STORAGE = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
log_requests = false
fallocate_reserve = 0
disable_fallocate = true
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors cache s3api tempauth copy slo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testtest .admin
user_test_reader = readread
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
auth_pipeline_check = false
min_segment_size = 5242880
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
rate_limit_under_size = 0
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""


class Quiet:
    def write(self, _: str) -> None:
        pass


def application(folder: Path, kind: str, text: str):
    conf = folder / f"{kind}.conf"
    conf.write_text(COMMON.format(folder=folder) + text)
    return loadapp(str(conf), global_conf={"log_level": "ERROR"}, allow_modify_pipeline=False)


def ring(folder: Path, kind: str, port: int) -> None:
    builder = RingBuilder(4, 1, 0)
    place = {"ip": "127.0.0.1", "port": port}
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "d1", "meta": "", **place}
    builder.add_dev({**device, "replication_ip": place["ip"], "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def main(folder: Path) -> None:
    (folder / "devices" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT)
    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    utils.validate_hash_conf()
    reload_storage_policies()
    sockets = {kind: eventlet.listen(("127.0.0.1", 0), backlog=200) for kind in KINDS}
    for kind, listening in sockets.items():
        ring(folder, kind, listening.getsockname()[1])
    options = {"log": Quiet(), "log_output": False, "socket_timeout": 60}
    for kind, listening in sockets.items():
        app = application(folder, kind, STORAGE.format(kind=kind))
        eventlet.spawn(wsgi.server, listening, app, **options)
    proxy = application(folder, "proxy", PROXY)
    listening = eventlet.listen(("127.0.0.1", 0), backlog=200)
    print(listening.getsockname()[1], flush=True)
    wsgi.server(listening, proxy, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
