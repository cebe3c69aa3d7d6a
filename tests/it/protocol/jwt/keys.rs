//! The forms of keys: which are read, and which are refused with a remedy.

use lobbyd::apps::{Jwt, JwtKeys};

use super::NOW;
use crate::common::jwt::{Algorithm, CLAIMS, SECRET, file, signed};

/// A point on edwards25519.
const POINT: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

#[track_caller]
fn check_refused(keys: Result<JwtKeys, Vec<String>>, expected: &str) {
    let problems = keys.expect_err("the keys are invalid");
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
}

fn accepts(keys: &JwtKeys, alg: Algorithm, header: &str) -> bool {
    Jwt::new(keys.clone()).check(&signed(alg, header, CLAIMS), NOW).is_ok()
}

#[test]
fn one_line_end_after_a_secret_is_not_part_of_it() {
    let header = r#"{"alg":"HS256"}"#;
    for end in ["", "\n", "\r\n"] {
        let keys = JwtKeys::secret(&[SECRET, end.as_bytes()].concat()).expect("long enough");
        assert!(accepts(&keys, Algorithm::HS256, header), "{end:?}");
    }
    for end in ["\n\n", " ", "\r", " \n"] {
        let keys = JwtKeys::secret(&[SECRET, end.as_bytes()].concat()).expect("long enough");
        assert!(!accepts(&keys, Algorithm::HS256, header), "{end:?}");
    }
    let random: Vec<u8> = (0..=255).collect();
    assert_eq!(JwtKeys::secret(&random).expect("any bytes").len(), 1);
}

#[test]
fn a_secret_is_long_and_no_public_key() {
    check_refused(JwtKeys::secret(b""), "the secret has 0 bytes, fewer than 32");
    check_refused(JwtKeys::secret(&[b'x'; 31]), "31 bytes");
    check_refused(JwtKeys::secret(&[&[b'x'; 31][..], b"\n"].concat()), "31 bytes");
    check_refused(JwtKeys::secret(&file("rsa.pub.pem")), "it is a key in PEM form");
    check_refused(JwtKeys::secret(&[b"\n", &file("ed.pem")[..]].concat()), "it is a key in PEM form");
    check_refused(JwtKeys::secret(&[b"\xef\xbb\xbf", SECRET].concat()), "byte order mark");
    let set = file("set.jwks.json");
    check_refused(JwtKeys::secret(&set), "if it is a key set, use --jwt-jwks-file");
    check_refused(JwtKeys::secret(&[b" \r\n\t", &set[..]].concat()), "it is a JSON object");
    for algorithm in ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"] {
        let line =
            format!("\n{algorithm} AAAAC3NzaC1lZDI1NTE5AAAAIPHY7hnhOp7LEDp/3sD9B0jDh5HZ/bdW5BDU/OAGNRg0 ann@host\n");
        check_refused(JwtKeys::secret(line.as_bytes()), "it is a public key of SSH");
    }
    for name in ["rsa.pub.pem", "rsa.pkcs1.pub.pem", "ec.pub.pem", "ed.pub.pem", "rsa.pem", "ed.pem", "certificate.pem"]
    {
        let der = crate::common::jwt::der(name);
        check_refused(JwtKeys::secret(&der), "in DER form");
        check_refused(JwtKeys::secret(&[&der[..], b"\n"].concat()), "in DER form");
    }
}

/// Secrets that only begin like a public key.
#[test]
fn other_secrets_are_accepted() {
    let text = format!("0.0{}", "x".repeat(45));
    assert!(text.len() == 48 && text.as_bytes()[1] == 46, "as in DER: the tag of a SEQUENCE and its length");
    let mut random = [0x55; 48];
    random[..2].copy_from_slice(b"\x30\x2e");
    let mut longer = [0x82; 64];
    longer[..5].copy_from_slice(b"\x30\x82\x01\x00\x30");
    for secret in [text.as_bytes(), &random, &longer, &[0x30; 32], b"[ssh-rsa AAAA {is part of a passphrase}]"] {
        assert!(JwtKeys::secret(secret).is_ok(), "{secret:x?}");
    }
}

#[test]
fn public_keys_are_read_in_pem_form() {
    for (name, alg, word) in [
        ("rsa.pub.pem", Algorithm::RS256, "RS256"),
        ("rsa.pkcs1.pub.pem", Algorithm::RS256, "RS256"),
        ("ec.pub.pem", Algorithm::ES256, "ES256"),
        ("ed.pub.pem", Algorithm::EdDSA, "EdDSA"),
    ] {
        let pem = file(name);
        let text = String::from_utf8(pem.clone()).expect("ASCII");
        let crlf = text.replace('\n', "\r\n");
        let explained = format!("# the key of the login service\n\n{text}\ntrailing text");
        for form in [&pem[..], crlf.as_bytes(), explained.as_bytes(), text.trim_end().as_bytes()] {
            let keys = JwtKeys::pem(form).expect("a public key");
            assert!(accepts(&keys, alg, &format!(r#"{{"alg":"{word}"}}"#)), "{name}");
        }
    }
}

#[test]
fn other_files_are_no_public_keys() {
    for (name, expected) in [
        ("rsa.pem", "it is a private key, which only the issuer of tokens may have"),
        ("ec.pem", "it is a private key"),
        ("ed.pem", "openssl pkey -pubout"),
        ("certificate.pem", "openssl x509 -noout -pubkey"),
        ("rsa-1024.pub.pem", "the RSA key has 1024 bits, and must have 2048 to 8192"),
        ("rsa-pss.pub.pem", "it must be RSA, EC on P-256 (prime256v1), or Ed25519"),
        ("ec-p384.pub.pem", "it must be RSA, EC on P-256"),
        ("ed448.pub.pem", "it must be RSA, EC on P-256"),
        ("ec-compressed.pub.pem", "-conv_form uncompressed"),
        ("set.jwks.json", "it has no line -----BEGIN PUBLIC KEY-----"),
    ] {
        check_refused(JwtKeys::pem(&file(name)), expected);
    }
    let good = String::from_utf8(file("rsa.pub.pem")).expect("ASCII");
    check_refused(JwtKeys::pem(b""), "no line");
    check_refused(JwtKeys::pem(b"\xff"), "it is not UTF-8");
    check_refused(JwtKeys::pem(format!("{good}{good}").as_bytes()), "several blocks; for several keys use a JWKS");
    check_refused(JwtKeys::pem(good.replace("END PUBLIC", "END RSA PUBLIC").as_bytes()), "no line -----END");
    check_refused(JwtKeys::pem(good.replace("PUBLIC KEY", "OPENSSH KEY").as_bytes()), "its label is neither");
    check_refused(JwtKeys::pem(good.replace("IDAQAB", "IDAQ!B").as_bytes()), "no base64");
    check_refused(JwtKeys::pem(good.replace("PUBLIC KEY", "RSA PUBLIC KEY").as_bytes()), "no public key in DER");
}

/// Each byte of a key is cut off or changed: an error or another key, never a panic.
#[test]
fn damaged_public_keys_are_refused_or_verify_nothing() {
    let header = r#"{"alg":"EdDSA"}"#;
    let der = crate::common::jwt::der("ed.pub.pem");
    let pem = |der: &[u8]| {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", data_encoding::BASE64.encode(der))
    };
    assert!(JwtKeys::pem(pem(&der).as_bytes()).is_ok_and(|keys| accepts(&keys, Algorithm::EdDSA, header)));
    for at in 0..der.len() {
        check_refused(JwtKeys::pem(pem(&der[..at]).as_bytes()), "its contents are no public key in DER");
        let mut changed = der.clone();
        changed[at] ^= 1;
        let keys = JwtKeys::pem(pem(&changed).as_bytes());
        assert!(keys.is_err() || !accepts(&keys.expect("it is read"), Algorithm::EdDSA, header), "byte {at}");
    }
    check_refused(JwtKeys::pem(pem(&[&der[..], b"\0"].concat()).as_bytes()), "no public key in DER");
}

#[test]
fn a_set_leaves_out_keys_for_other_purposes() {
    let keys = crate::common::jwt::set();
    assert_eq!(keys.len(), 4);
    assert_eq!(
        keys.unused(),
        [
            "key 5: its use is not sig",
            "key 6: its kty and crv are not supported",
            "key 7: its kty and crv are not supported",
            "key 8: its alg is not supported for its kty",
            "key 9: its key_ops are without verify"
        ]
    );
    assert_eq!(format!("{keys:?}"), "JwtKeys(Jwks, 4)");
}

#[test]
fn the_kid_selects_the_key() {
    let keys = crate::common::jwt::set();
    for (kid, is_accepted) in [("r1", true), ("e1", false), ("enc", false), ("ps", false), ("", false), ("R1", false)] {
        let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
        assert_eq!(accepts(&keys, Algorithm::RS256, &header), is_accepted, "{kid}");
    }
    // Two keys of one algorithm: the new one and the one that it replaces.
    let old = r#"{"kty":"oct","kid":"old","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    let new = r#"{"kty":"oct","kid":"new","alg":"HS256","k":"YSBzZWNyZXQgb2YgdGhlIHRlc3RzLCBub3Qgb2YgYSBzZXJ2ZXI"}"#;
    let keys = JwtKeys::jwks(format!(r#"{{"keys":[{old},{new}]}}"#).as_bytes()).expect("two keys");
    assert!(accepts(&keys, Algorithm::HS256, r#"{"alg":"HS256","kid":"new"}"#));
    assert!(!accepts(&keys, Algorithm::HS256, r#"{"alg":"HS256","kid":"old"}"#));
    assert!(!accepts(&keys, Algorithm::HS256, r#"{"alg":"HS256"}"#), "both could be meant");
    // One `kid` may name keys of different algorithms.
    let ed = r#"{"kty":"OKP","crv":"Ed25519","kid":"new","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let keys = JwtKeys::jwks(format!(r#"{{"keys":[{ed},{new}]}}"#).as_bytes()).expect("two keys");
    assert!(accepts(&keys, Algorithm::HS256, r#"{"alg":"HS256","kid":"new"}"#));
}

#[test]
fn a_wrong_set_is_refused_with_all_problems() {
    let ed = r#"{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let check_set = |keys: &str, expected: &str| {
        check_refused(JwtKeys::jwks(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()), expected);
    };
    check_refused(JwtKeys::jwks(b""), "it is not a JSON object");
    check_refused(JwtKeys::jwks(ed.as_bytes()), "it has no list `keys`");
    check_refused(JwtKeys::jwks(br#"{"keys":[],"keys":[]}"#), "each member once");
    check_set("", "it has no key for HS256, RS256, ES256 or EdDSA");
    check_set(r#"{"kty":"AKP"}"#, "key 1: its kty and crv are not supported");
    check_set(&format!("{ed},{ed}"), "key 2: an earlier key has the same kid and algorithm");
    let unnamed = ed.replace(r#""kid":"1","#, "");
    check_set(&format!("{unnamed},{unnamed}"), "key 2: an earlier key has the same kid and algorithm");
    check_set("1", "key 1: it is no JSON object");
    check_set(r#"{"kid":"1"}"#, "key 1: it has no kty");
    check_set(&ed.replace(r#""1""#, "1"), "a member has the wrong type");
    check_set(&ed.replace(r#""x":"1"#, r#""x":"="#), "its x is no base64url");
    check_set(&ed.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "AQAB"), "its x has not 32 bytes");
    check_set(&ed.replace(r#""x""#, r#""y""#), "it has no x");
    check_set(&ed.replace(r#""x""#, r#""d":"AAAA","x""#), "it is a private key");
    check_set(r#"{"kty":"oct","k":"c2hvcnQ"}"#, "key 1: the secret has 5 bytes");
    check_set(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, "the RSA key has 17 bits");
    check_set(r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#, "its x has not 32 bytes");
    // All of them at once.
    let problems = JwtKeys::jwks(br#"{"keys":[{"kty":"oct","k":"c2hvcnQ"},{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#);
    assert_eq!(problems.expect_err("both are wrong").len(), 2);
    let set = String::from_utf8(file("set.jwks.json")).expect("ASCII");
    for exponent in ["AQ", "Ag", "AAAAAAE", ""] {
        let changed = set.replace("AQAB", exponent);
        check_refused(JwtKeys::jwks(changed.as_bytes()), "key 1: the RSA key has an invalid modulus or exponent");
    }
    // Leading zeros do not make a key longer, or another one.
    let padded = set.replacen(r#""n": "y"#, r#""n": "AAAAy"#, 1);
    assert_ne!(padded, set);
    let keys = JwtKeys::jwks(padded.as_bytes()).expect("the same key");
    assert!(accepts(&keys, Algorithm::RS256, r#"{"alg":"RS256","kid":"r1"}"#));
}

#[test]
fn a_set_that_is_cut_off_is_refused() {
    let set = file("set.jwks.json");
    let end = set.trim_ascii_end().len();
    for at in 0..end {
        check_refused(JwtKeys::jwks(&set[..at]), "it is not a JSON object");
    }
    assert!(JwtKeys::jwks(&set[..end]).is_ok());
}

/// Signatures by a key of small order can be computed without a private key.
#[test]
fn ed25519_keys_of_small_order_are_refused() {
    for y in [
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "7P_______________________________________38",
        "7f_______________________________________38",
        "7v________________________________________8",
        "JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU",
        "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA3o",
    ] {
        let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{y}"}}]}}"#);
        check_refused(JwtKeys::jwks(set.as_bytes()), "small order");
    }
}

/// A set comes from a provider, and is read between two messages.
#[test]
fn a_hostile_set_of_many_keys_is_refused_unread_and_in_a_few_words() {
    let set = |keys: Vec<String>| JwtKeys::jwks(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes());
    let named = |kid: usize| format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{POINT}"}}"#);
    assert_eq!(set((0..100).map(named).collect()).expect("not too many").len(), 100);
    for (one, count) in [(named(0), 101), (named(0), 10_000), ("{}".into(), 340_000)] {
        let problems = set(vec![one; count]).expect_err("too many");
        assert_eq!(problems, [format!("it has {count} keys, more than 100")]);
    }
    let problems = set(vec!["{}".into(); 100]).expect_err("no key");
    assert_eq!((problems.len(), &*problems[4], &*problems[5]), (6, "key 5: it has no kty", "and 95 more"));
    let mut keys = vec![r#"{"kty":"AKP"}"#.to_owned(); 7];
    let problems = set(keys.clone()).expect_err("no key");
    assert_eq!((problems.len(), &*problems[6]), (7, "and 2 more"));
    keys.push(named(0));
    let keys = set(keys).expect("a key");
    assert_eq!((keys.len(), keys.unused().len(), &*keys.unused()[5]), (1, 6, "and 2 more"));
}
