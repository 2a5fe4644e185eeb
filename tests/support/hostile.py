"""Endpoints as an attacker would have a browser's subscription say them, and names that lead inside."""

METADATA = (
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure, beside 169.254.169.254: an address that counts as public
    "169.254.169.254",  # most clouds
    "169.254.170.2",  # Amazon's containers
    "169.254.42.42",  # Scaleway
    "192.0.0.192",  # Oracle Cloud Classic
    "fd00:100::100:200",  # Alibaba Cloud
    "fd00:42::42",  # Scaleway
    "fd00:a9fe:a9fe::1",  # Akamai, formerly Linode
    "fd00:c1::a9fe:a9fe",  # Oracle Cloud
    "fd00:ec2::23",  # Amazon's Kubernetes
    "fd00:ec2::254",  # Amazon
    "fd20:ce::254",  # Google Cloud
    "fe80::a9fe:a9fe",  # OpenStack
)
"""Where clouds tell a machine its secrets: each provider's pages, and the data sources of cloud-init."""

PRIVATE_HOSTS = (
    *(f"[{address}]" if ":" in address else address for address in METADATA),
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    # what inet_aton(3) reads as 127.0.0.1, 0.0.0.0, 10.0.0.1 and 169.254.169.254
    "0",
    "127.1",
    "127.0.1",
    "10.1",
    "2130706433",
    "2852039166",
    "017700000001",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.1",
    "0xa9.0xfe.0xa9.0xfe",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:10.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:808:808::80ff:fffe]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fc00::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
)
"""Hosts of URLs that lead inside by themselves, in all spellings that a resolver takes."""

REFUSED = {
    **{f"https://{host}/x": "host_not_allowed" for host in PRIVATE_HOSTS},
    # no host, or none that is what it looks like
    "https:///x": "malformed_url",
    "//127.0.0.1/x": "malformed_url",
    "https:127.0.0.1": "malformed_url",
    "https://0177.0.0.1/x": "malformed_url",
    "https://127.0.0.1%00.push.apple.com/x": "malformed_url",
    "https://127.0.0.1%2f.push.apple.com/x": "malformed_url",
    "https://127%2e0%2e0%2e1/x": "malformed_url",
    "https://127.0.0.1\\.push.apple.com/x": "malformed_url",
    "https://127.0.0.1\t.push.apple.com/x": "malformed_url",
    "https://127.0.0.1\r\nHost: fcm.googleapis.com\r\n\r\n.push.apple.com/x": "malformed_url",
    " https://fcm.googleapis.com/x": "malformed_url",
    "https://fcm.googleapis.com/x\r\nX-Header: 1": "malformed_url",
    "https://[::1%25lo]/x": "malformed_url",
    "https://[fe80::1%25eth0]/x": "malformed_url",
    "https://[fe80::1%eth0]/x": "malformed_url",
    "https://[::1].push.apple.com/x": "malformed_url",
    "https://[127.0.0.1]/x": "malformed_url",
    "https://1２7.0.0.1/x": "malformed_url",
    "https://①②⑦.⓪.⓪.①/x": "malformed_url",
    "https://127。0。0。1/x": "malformed_url",
    "https://web．push．apple．com/x": "malformed_url",
    "https://fcm。googleapis。com/x": "malformed_url",
    "https://web.push.аpple.com/x": "malformed_url",
    "https://web.push.apple.com\u200b/x": "malformed_url",
    "https://ｆcm.googleapis.com/x": "malformed_url",
    "https://.push.apple.com/x": "malformed_url",
    "https://web..push.apple.com/x": "malformed_url",
    "https://*.push.apple.com/x": "malformed_url",
    # other schemes
    "http://127.0.0.1/x": "not_https",
    "http://fcm.googleapis.com/x": "not_https",
    "http://169.254.169.254/latest/meta-data/": "not_https",
    "ftp://fcm.googleapis.com/x": "malformed_url",
    "ws://fcm.googleapis.com/x": "malformed_url",
    "gopher://127.0.0.1:6379/_FLUSHALL": "malformed_url",
    "file:///etc/passwd": "malformed_url",
    "unix:///var/run/docker.sock": "malformed_url",
    # userinfo
    "https://fcm.googleapis.com@127.0.0.1/x": "userinfo",
    "https://fcm.googleapis.com:443@127.0.0.1/x": "userinfo",
    "https://127.0.0.1\\@fcm.googleapis.com/x": "userinfo",
    "https://127.0.0.1@fcm.googleapis.com/x": "userinfo",
    "https://@fcm.googleapis.com/x": "userinfo",
    "https://:@fcm.googleapis.com/x": "userinfo",
    # ports
    "https://fcm.googleapis.com:80/x": "port_not_443",
    "https://fcm.googleapis.com:6379/x": "port_not_443",
    "https://fcm.googleapis.com:8443/x": "port_not_443",
    "https://fcm.googleapis.com:0/x": "malformed_url",
    "https://fcm.googleapis.com:65979/x": "malformed_url",  # 443 and 65,536
    "https://fcm.googleapis.com:443:80/x": "malformed_url",
    "https://fcm.googleapis.com:+443/x": "malformed_url",
    # names that are not allowed, or look as if they were
    "https://localhost/x": "host_not_allowed",
    "https://localhost./x": "host_not_allowed",
    "https://ip6-localhost/x": "host_not_allowed",
    "https://evil.example/x": "host_not_allowed",
    "https://push.apple.com/x": "host_not_allowed",
    "https://push.apple.com.evil.example/x": "host_not_allowed",
    "https://evilpush.apple.com/x": "host_not_allowed",
    "https://web.push.apple.com./x": "host_not_allowed",
    "https://fcm.googleapis.com./x": "host_not_allowed",
    "https://fcm.googleapis.com.evil.example/x": "host_not_allowed",
    "https://evil.fcm.googleapis.com/x": "host_not_allowed",
    "https://evil.example#.push.apple.com/x": "host_not_allowed",
    "https://evil.example?.push.apple.com/x": "host_not_allowed",
    "https://evil.example/.push.apple.com/x": "host_not_allowed",
    "https://web.push.xn--pple-43d.com/x": "host_not_allowed",
    "https://127.0.0.1.nip.io/x": "host_not_allowed",
}
"""Endpoints that the configuration as it is shipped lets nobody call, and what follows ``endpoint_refused:``."""

INSIDE = {
    "loopback.push.apple.com": ("127.0.0.1",),
    "loopback6.push.apple.com": ("::1",),
    "both.push.apple.com": ("127.0.0.1", "::1"),
    "unspecified.push.apple.com": ("0.0.0.0",),
    "metadata.push.apple.com": ("169.254.169.254",),
    "lan.push.apple.com": ("192.168.1.1",),
    "cgnat.push.apple.com": ("100.64.0.1",),
    "mapped.push.apple.com": ("::ffff:127.0.0.1",),
    "nat64.push.apple.com": ("64:ff9b::7f00:1",),
    "ula.push.apple.com": ("fd00::1",),
    "site-local.push.apple.com": ("fec0::1",),
    "multicast.push.apple.com": ("224.0.0.1",),
    "one-of-two.push.apple.com": ("17.0.0.1", "10.0.0.1"),
    "the-other-of-two.push.apple.com": ("10.0.0.1", "17.0.0.1"),
    "one-of-each.push.apple.com": ("17.0.0.1", "::1"),
    "xn--loopback-8x4g.notify.windows.com": ("127.0.0.1",),
}
"""Names that the configuration as it is shipped allows, and the addresses that they lead to."""
