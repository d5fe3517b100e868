//! Which hosts and addresses `audio_url` may reach: only public unicast ones, in whatever spelling they come.
//!
//! Pure functions. [`check_url`] judges a URL before any request and at each redirect; [`is_public`] judges every
//! address a name resolves to, at the moment it is resolved, and the connection is then made to exactly those addresses.
//! The ranges are those of the IANA special-purpose address registries (RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Why a URL is not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not `http` or `https`.
    #[error("URL scheme must be http or https, got {0}")]
    Scheme(String),
    /// There is no host in it.
    #[error("URL has no host")]
    NoHost,
    /// It carries a user name or password.
    #[error("URLs with a user name or password are not allowed")]
    Credentials,
    /// It points, or its name resolves, to an address that is not public.
    #[error("URLs pointing to private or internal network addresses are not allowed")]
    PrivateAddress,
}

/// Which addresses may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Public unicast addresses.
    Public,
    /// Public ones and this machine's loopback; for tests.
    PublicAndLoopback,
}

/// Judges a URL by itself: scheme, credentials, and the host when it is an address or a name reserved for this machine
/// or a local network. Names that pass are judged again when they are resolved.
///
/// # Errors
/// The [`Refusal`].
pub fn check_url(url: &Url, reach: Reach) -> Result<(), Refusal> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::Credentials);
    }
    // The URL parser has already turned decimal, octal, hexadecimal and shortened IPv4 spellings into an address.
    let allowed = match url.host() {
        None => return Err(Refusal::NoHost),
        Some(Host::Ipv4(address)) => is_allowed(IpAddr::V4(address), reach),
        Some(Host::Ipv6(address)) => is_allowed(IpAddr::V6(address), reach),
        Some(Host::Domain(name)) => is_allowed_name(name, reach),
    };
    allowed.then_some(()).ok_or(Refusal::PrivateAddress)
}

/// Whether an address may be reached.
#[must_use]
pub fn is_allowed(address: IpAddr, reach: Reach) -> bool {
    let address = address.to_canonical();
    is_public(address) || (reach == Reach::PublicAndLoopback && address.is_loopback())
}

fn is_allowed_name(name: &str, reach: Reach) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() {
        return false;
    }
    // A host that is only an address after a trailing dot is cut, or in a spelling the URL parser leaves alone.
    if let Ok(address) = name.parse::<IpAddr>() {
        return is_allowed(address, reach);
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return reach == Reach::PublicAndLoopback;
    }
    // RFC 6761, 6762 and 8375: names that only mean something on a local network.
    let local = [".local", ".internal", ".intranet", ".lan", ".home.arpa"];
    !local.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether an address is public unicast.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        // "This network", private, loopback.
        0 | 10 | 127 => true,
        // Carrier-grade NAT, 100.64.0.0/10.
        100 => (64..128).contains(&b),
        // Link-local, with the metadata services of clouds.
        169 => b == 254,
        172 => (16..32).contains(&b),
        // IETF protocol assignments, documentation, AS112, the retired 6to4 relays, private, and another AS112.
        192 => {
            b == 168
                || (b == 0 && (c == 0 || c == 2))
                || (b == 31 && c == 196)
                || (b == 52 && c == 193)
                || (b == 88 && c == 99)
                || (b == 175 && c == 48)
        }
        // Benchmarks (198.18.0.0/15) and documentation.
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        // Multicast, reserved and broadcast.
        224..=255 => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(embedded) = embedded_v4(address) {
        return is_public_v4(embedded);
    }
    let [first, second, ..] = address.segments();
    // Global unicast is 2000::/3; all else is loopback, unique local, link-local, multicast or unassigned.
    if first & 0xe000 != 0x2000 {
        return false;
    }
    let special = match first {
        // IETF protocol assignments with Teredo, ORCHID and benchmarking (2001::/23), and documentation.
        0x2001 => second < 0x0200 || second == 0x0db8,
        // Documentation, 3fff::/20.
        0x3fff => second < 0x1000,
        _ => false,
    };
    !special
}

/// The IPv4 address inside one of the IPv6 forms that lead to it: mapped, compatible, NAT64 and 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let from = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // ::ffff:a.b.c.d, ::ffff:0:a.b.c.d and ::a.b.c.d; `::` and `::1` land in 0.0.0.0/8, which is not public.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(from(high, low))
        }
        // NAT64, the well-known prefix 64:ff9b::/96; the local-use prefix 64:ff9b:1::/48 is outside 2000::/3.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        // 6to4, 2002:a.b.c.d::/48.
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn check(url: &str, expected: Result<(), Refusal>) {
        let parsed = Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(check_url(&parsed, Reach::Public), expected, "{url}");
    }

    #[test]
    fn private_addresses_are_refused_in_every_spelling() {
        let hosts = [
            "127.0.0.1",
            "127.1",
            "127.0.0.1.",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.01",
            "0",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "012.0.0.1",
            "0xa.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "3232235777",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2002:c0a8:101::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[2001:db8::1]",
            "[2001::1]",
            "[2001:2::1]",
            "[3fff::1]",
            "[5f00::1]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "printer.local",
            "metadata.google.internal",
            "router.lan",
            "x.home.arpa",
            // Full-width digits and the ideographic full stop normalise to plain ones.
            "１２７.０.０.１",
            "127。0。0。1",
            "%31%32%37.0.0.1",
        ];
        for host in hosts {
            check(
                &format!("http://{host}/a.wav"),
                Err(Refusal::PrivateAddress),
            );
            check(
                &format!("https://{host}:8443/a.wav"),
                Err(Refusal::PrivateAddress),
            );
        }
    }

    #[test]
    fn public_addresses_and_names_pass() {
        let hosts = [
            "example.com",
            "8.8.8.8",
            "1.1.1.1.",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "169.253.0.1",
            "192.1.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::8.8.8.8]",
            "[2002:808:808::1]",
            "xn--bcher-kva.example",
        ];
        for host in hosts {
            check(&format!("https://{host}/a.wav"), Ok(()));
        }
    }

    #[test]
    fn credentials_and_other_schemes_are_refused() {
        check("http://example.com@127.0.0.1/", Err(Refusal::Credentials));
        check("http://127.0.0.1@example.com/", Err(Refusal::Credentials));
        check("http://:secret@example.com/", Err(Refusal::Credentials));
        for scheme in ["ftp", "gopher"] {
            check(
                &format!("{scheme}://example.com/a"),
                Err(Refusal::Scheme(scheme.into())),
            );
        }
        check("file:///etc/passwd", Err(Refusal::Scheme("file".into())));
        check(
            "data:audio/wav;base64,AA==",
            Err(Refusal::Scheme("data".into())),
        );
        // The host ends at the backslash, as browsers read it.
        check(
            "http://127.0.0.1\\@example.com/",
            Err(Refusal::PrivateAddress),
        );
        check(
            "http://127.0.0.1#@example.com/",
            Err(Refusal::PrivateAddress),
        );
        check(
            "http://127.0.0.1?@example.com/",
            Err(Refusal::PrivateAddress),
        );
    }

    #[test]
    fn loopback_is_reached_only_when_allowed_and_nothing_else_then() {
        let reach = Reach::PublicAndLoopback;
        for (url, allowed) in [
            ("http://127.0.0.1:9/", true),
            ("http://[::1]:9/", true),
            ("http://localhost:9/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://10.0.0.1/", false),
            ("http://169.254.169.254/", false),
            ("http://[fd00::1]/", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(check_url(&url, reach).is_ok(), allowed, "{url}");
        }
    }
}
