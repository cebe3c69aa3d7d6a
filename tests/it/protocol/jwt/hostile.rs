//! Hostile tokens, each with the reason why it is refused.

use data_encoding::BASE64URL_NOPAD;
use lobbyd::apps::{Jwt, JwtKeys, JwtRefusal};
use lobbyd::{CloseReason, Config};

use super::NOW;
use crate::common::jwt::{
    Algorithm, CLAIMS, EncodingKey, SECRET, change_signature, der, file, keys, set, signed, signed_by, token,
    with_signature,
};

/// The secret of somebody who is not the issuer.
const FOREIGN: &[u8] = b"a secret that the server does not have";

const HS256: &str = r#"{"alg":"HS256"}"#;
const RS256: &str = r#"{"alg":"RS256"}"#;
const ES256: &str = r#"{"alg":"ES256"}"#;
const EDDSA: &str = r#"{"alg":"EdDSA"}"#;

/// Checks that a token is refused for this reason, and tells the client no more than `unauthorized` or `token_expired`.
#[track_caller]
fn check(keys: JwtKeys, cases: &[(&str, String, JwtRefusal)]) {
    let jwt = Jwt::new(keys);
    for (case, token, expected) in cases {
        let refusal = jwt.check(token, NOW).err();
        assert_eq!(refusal, Some(*expected), "{case}: {token}");
        let is_expired = *expected == JwtRefusal::Expired;
        let told = if is_expired { CloseReason::TokenExpired } else { CloseReason::Unauthorized };
        assert_eq!(expected.close_reason(), told);
        assert!(!token.contains(&refusal.expect("it is refused").to_string()));
    }
}

/// A good token by HS256 with another header.
fn headed(header: &str) -> String {
    signed(Algorithm::HS256, header, CLAIMS)
}

// ---- algorithms ----

#[test]
fn the_key_decides_the_algorithm() {
    use JwtRefusal::{Algorithm as Alg, Header, Key};
    // Algorithm confusion: HMAC with a public key, which everybody knows, as the secret.
    for (alg, pem) in [
        (Algorithm::RS256, "rsa.pub.pem"),
        (Algorithm::RS256, "rsa.pkcs1.pub.pem"),
        (Algorithm::ES256, "ec.pub.pem"),
        (Algorithm::EdDSA, "ed.pub.pem"),
    ] {
        let hmac =
            |secret: &[u8]| signed_by(Algorithm::HS256, &EncodingKey::from_secret(secret), HS256, CLAIMS.as_bytes());
        let text = file(pem);
        check(
            keys(alg),
            &[
                ("the text of the file", hmac(&text), Alg),
                ("without the last line end", hmac(text.trim_ascii()), Alg),
                ("its bytes", hmac(&der(pem)), Alg),
                ("an empty secret", hmac(b""), Alg),
            ],
        );
        // A set with a key of HS256 beside it: the name of the public key leads to no secret.
        let named = signed_by(
            Algorithm::HS256,
            &EncodingKey::from_secret(&text),
            r#"{"alg":"HS256","kid":"r1"}"#,
            CLAIMS.as_bytes(),
        );
        check(set(), &[("in a set", named, Key), ("in a set without kid", hmac(&text), JwtRefusal::Signature)]);
    }
    let none = |alg: &str| with_signature(&format!(r#"{{"alg":{alg}}}"#), CLAIMS, b"");
    for alg in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        check(
            keys(alg),
            &[
                ("none", none(r#""none""#), Alg),
                ("none in other cases", none(r#""nOnE""#), Alg),
                ("None", none(r#""None""#), Alg),
                ("NONE", none(r#""NONE""#), Alg),
                ("none and a space", none(r#""none ""#), Alg),
                ("none with a signature", with_signature(r#"{"alg":"none"}"#, CLAIMS, &[7; 64]), Alg),
                ("an empty alg", none(r#""""#), Alg),
                ("another HMAC", none(r#""HS512""#), Alg),
                ("the padding of RSA", none(r#""PS256""#), Alg),
                ("another curve", none(r#""ES384""#), Alg),
                ("lower case", none(r#""hs256""#), Alg),
                ("alg null", none("null"), Header),
                ("alg is a list", none(r#"["HS256"]"#), Header),
                ("alg is a number", none("256"), Header),
                ("no alg", with_signature("{}", CLAIMS, b""), Header),
            ],
        );
    }
}

// ---- headers ----

#[test]
fn extensions_and_nested_tokens_are_refused() {
    use JwtRefusal::{Extension, Header};
    check(
        keys(Algorithm::HS256),
        &[
            ("crit", headed(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#), Extension),
            ("an empty crit", headed(r#"{"alg":"HS256","crit":[]}"#), Extension),
            ("crit null", headed(r#"{"alg":"HS256","crit":null}"#), Extension),
            ("claims that are not encoded", headed(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#), Extension),
            ("b64 without crit", headed(r#"{"alg":"HS256","b64":false}"#), Extension),
            ("a nested token", headed(r#"{"alg":"HS256","cty":"JWT"}"#), Extension),
            ("a token for logging out", headed(r#"{"alg":"HS256","typ":"logout+jwt"}"#), Extension),
            ("an encrypted token", headed(r#"{"alg":"HS256","typ":"JWE","enc":"A128GCM"}"#), Extension),
            ("typ is a number", headed(r#"{"alg":"HS256","typ":1}"#), Header),
            ("alg twice", headed(r#"{"alg":"none","alg":"HS256"}"#), Header),
            ("alg twice, escaped", headed(r#"{"alg":"HS256","\u0061lg":"none"}"#), Header),
            ("kid twice", headed(r#"{"alg":"HS256","kid":"a","kid":"b"}"#), Header),
            ("a repeated member in a member", headed(r#"{"alg":"HS256","x":{"y":1,"y":2}}"#), Header),
            ("kid is a number", headed(r#"{"alg":"HS256","kid":1}"#), Header),
            ("kid null", headed(r#"{"alg":"HS256","kid":null}"#), Header),
            ("no object", headed(r#"["HS256"]"#), Header),
            ("an empty header", headed(""), Header),
            ("text behind the object", headed(r#"{"alg":"HS256"}{}"#), Header),
            ("a byte order mark", headed("\u{feff}{\"alg\":\"HS256\"}"), Header),
            (
                "deep JSON",
                headed(&format!(r#"{{"alg":"HS256","x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000))),
                Header,
            ),
            ("deep JSON without end", headed(&format!(r#"{{"alg":"HS256","x":{}"#, "{\"x\":".repeat(4000))), Header),
        ],
    );
}

/// The key in a header is the sender's own.
#[test]
fn keys_in_the_header_are_not_used() {
    let foreign = EncodingKey::from_secret(FOREIGN);
    let own = |header: &str| signed_by(Algorithm::HS256, &foreign, header, CLAIMS.as_bytes());
    let k = BASE64URL_NOPAD.encode(FOREIGN);
    check(
        keys(Algorithm::HS256),
        &[
            ("jwk", own(&format!(r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{k}"}}}}"#)), JwtRefusal::Signature),
            ("jku", own(r#"{"alg":"HS256","jku":"http://127.0.0.1/keys"}"#), JwtRefusal::Signature),
            ("x5u", own(r#"{"alg":"HS256","x5u":"file:///dev/zero"}"#), JwtRefusal::Signature),
            ("x5c", own(r#"{"alg":"HS256","x5c":["AAAA"]}"#), JwtRefusal::Signature),
        ],
    );
    check(
        set(),
        &[
            ("an unknown kid", headed(r#"{"alg":"HS256","kid":"h2"}"#), JwtRefusal::Key),
            ("a kid that is a path", headed(r#"{"alg":"HS256","kid":"../../dev/null"}"#), JwtRefusal::Key),
            ("a kid that is a query", headed(r#"{"alg":"HS256","kid":"h1' OR '1'='1"}"#), JwtRefusal::Key),
            ("an empty kid", headed(r#"{"alg":"HS256","kid":""}"#), JwtRefusal::Key),
            ("the kid of another algorithm", headed(r#"{"alg":"HS256","kid":"e1"}"#), JwtRefusal::Key),
            (
                "the kid of a key that is not for signatures",
                signed(Algorithm::RS256, r#"{"alg":"RS256","kid":"enc"}"#, CLAIMS),
                JwtRefusal::Key,
            ),
        ],
    );
}

// ---- form ----

#[test]
fn the_form_is_exact() {
    use JwtRefusal::{Form, Signature};
    let good = headed(HS256);
    let (input, signature) = good.rsplit_once('.').expect("three parts");
    let (header, claims) = input.split_once('.').expect("two parts");
    // The last character has two bits beyond the last byte. Decoders that ignore them accept four texts.
    let last = signature.as_bytes()[signature.len() - 1];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.iter().position(|&c| c == last).expect("base64url");
    let beyond = format!("{}{}", &good[..good.len() - 1], char::from(alphabet[at | 1]));
    let in_base64 = with_signature(HS256, CLAIMS, &[0xfb, 0xff]).replace(['-', '_'], "/");
    check(
        keys(Algorithm::HS256),
        &[
            ("nothing", String::new(), Form),
            ("a word", "ann".into(), Form),
            ("one dot", input.into(), Form),
            ("two dots", "..".into(), JwtRefusal::Header),
            ("only dots", "....".into(), Form),
            ("four parts", format!("{good}.{claims}"), Form),
            ("five parts, as an encrypted token", format!("{header}..{claims}.{signature}.{signature}"), Form),
            ("a dot at the end", format!("{good}."), Form),
            ("padding", format!("{good}="), Form),
            ("padding in the header", format!("{header}=.{claims}.{signature}"), Form),
            ("a space before", format!(" {good}"), Form),
            ("a line end after", format!("{good}\n"), Form),
            ("a line end inside", format!("{header}\n.{claims}.{signature}"), Form),
            ("NUL", format!("{good}\0"), Form),
            ("base64 instead of base64url", in_base64, Form),
            ("bits beyond the last byte", beyond, Form),
            ("percent-encoded", good.replace('.', "%2E"), Form),
            ("JSON", format!(r#"{{"protected":"{header}","payload":"{claims}","signature":"{signature}"}}"#), Form),
            ("with its scheme", format!("Bearer {good}"), Form),
            ("a letter that is not ASCII", good.replacen('e', "é", 1), Form),
            ("no signature", format!("{input}."), Signature),
            ("no header", format!(".{claims}.{signature}"), JwtRefusal::Header),
            ("no claims", format!("{header}..{signature}"), Signature),
            ("huge", format!("{header}.{}.{signature}", claims.repeat(20_000)), Signature),
            ("a huge signature", format!("{input}.{}", "A".repeat(1 << 20)), Signature),
        ],
    );
}

// ---- signatures ----

fn flip(bit: u8) -> impl Fn(Vec<u8>) -> Vec<u8> {
    move |mut bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= bit;
        bytes
    }
}

#[test]
fn changed_signatures_are_refused() {
    let foreign = EncodingKey::from_secret(FOREIGN);
    check(
        keys(Algorithm::HS256),
        &[("a foreign secret", signed_by(Algorithm::HS256, &foreign, HS256, CLAIMS.as_bytes()), JwtRefusal::Signature)],
    );
    for (alg, header) in
        [(Algorithm::HS256, HS256), (Algorithm::RS256, RS256), (Algorithm::ES256, ES256), (Algorithm::EdDSA, EDDSA)]
    {
        let good = signed(alg, header, CLAIMS);
        let (_, signature) = good.rsplit_once('.').expect("three parts");
        let eve = signed(alg, header, r#"{"sub":"eve","exp":1000060}"#);
        let (eves_input, _) = eve.rsplit_once('.').expect("three parts");
        let bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).expect("base64url");
        let length = bytes.len();
        let changed = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| change_signature(&good, change);
        let swapped = with_signature(header, &CLAIMS.replace("ann", "eve"), &bytes);
        assert!(Jwt::new(keys(alg)).check(&good, NOW).is_ok());
        let cases = [
            ("of other claims", format!("{eves_input}.{signature}")),
            ("of a changed claim", swapped),
            ("one bit", changed(&flip(1))),
            ("one bit", changed(&flip(128))),
            ("cut off", changed(&|bytes| bytes[..length - 1].to_vec())),
            ("empty", changed(&|_| Vec::new())),
            ("one byte more", changed(&|bytes| [&bytes[..], b"\0"].concat())),
            ("a zero before", changed(&|bytes| [b"\0", &bytes[..]].concat())),
            ("all zeros", changed(&|_| vec![0; length])),
            ("all ones", changed(&|_| vec![0xff; length])),
            ("only one", changed(&|_| [&vec![0; length - 1][..], &[1]].concat())),
            ("reversed", changed(&|bytes| bytes.into_iter().rev().collect())),
        ];
        check(keys(alg), &cases.map(|(case, token)| (case, token, JwtRefusal::Signature)));
    }
}

/// A token has one text: whichever character is changed, left out or doubled, it is refused.
#[test]
fn each_character_of_a_token_matters() {
    for (alg, header) in
        [(Algorithm::HS256, HS256), (Algorithm::RS256, RS256), (Algorithm::ES256, ES256), (Algorithm::EdDSA, EDDSA)]
    {
        let jwt = Jwt::new(keys(alg));
        let good = signed(alg, header, CLAIMS);
        for at in 0..good.len() {
            let (before, after) = (&good[..at], &good[at + 1..]);
            let old = &good[at..=at];
            for new in ["", "A", "B", "g", "_", ".", "=", "\n", &format!("{old}{old}")] {
                let changed = format!("{before}{new}{after}");
                assert!(new == old || jwt.check(&changed, NOW).is_err(), "{at} {new:?}: {changed}");
            }
        }
    }
}

/// The order of the base point of Ed25519, little-endian (RFC 8032 section 5.1).
const ED25519_ORDER: [u8; 32] =
    *b"\xed\xd3\xf5\x5c\x1a\x63\x12\x58\xd6\x9c\xf7\xa2\xde\xf9\xde\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10";

/// The order of the base point of P-256.
const P256_ORDER: [u8; 32] = *b"\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";

#[test]
fn signatures_have_one_form() {
    let ec = signed(Algorithm::ES256, ES256, CLAIMS);
    // An integer of DER has a sign.
    let integer = |number: &[u8]| {
        let sign = if number[0] >= 0x80 { &b"\0"[..] } else { b"" };
        [&[2, (sign.len() + number.len()) as u8], sign, number].concat()
    };
    let in_der = change_signature(&ec, |bytes| {
        let numbers = [integer(&bytes[..32]), integer(&bytes[32..])].concat();
        [&[0x30, numbers.len() as u8], &numbers[..]].concat()
    });
    let changed = |r: [u8; 32], s: [u8; 32]| change_signature(&ec, |_| [r, s].concat());
    let one = *b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    check(
        keys(Algorithm::ES256),
        &[
            ("DER", in_der, JwtRefusal::Signature),
            ("r and s are 0", changed([0; 32], [0; 32]), JwtRefusal::Signature),
            ("r is 0", changed([0; 32], one), JwtRefusal::Signature),
            ("s is 0", changed(one, [0; 32]), JwtRefusal::Signature),
            ("r and s are the order", changed(P256_ORDER, P256_ORDER), JwtRefusal::Signature),
            ("r is 1, s is the order", changed(one, P256_ORDER), JwtRefusal::Signature),
        ],
    );
    let ed = signed(Algorithm::EdDSA, EDDSA, CLAIMS);
    let malleable = change_signature(&ed, |mut bytes| {
        let mut carry = 0;
        for (byte, order) in bytes[32..].iter_mut().zip(ED25519_ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        bytes
    });
    let identity = [&[1][..], &[0; 63]].concat();
    let order_two = [&[0xec][..], &[0xff; 30], &[0x7f], &[0; 32]].concat();
    check(
        keys(Algorithm::EdDSA),
        &[
            ("s plus the order", malleable, JwtRefusal::Signature),
            ("R is the neutral point", change_signature(&ed, |_| identity), JwtRefusal::Signature),
            ("R has the order 2", change_signature(&ed, |_| order_two), JwtRefusal::Signature),
            ("R alone", change_signature(&ed, |bytes| [&bytes[..32], &[0; 32]].concat()), JwtRefusal::Signature),
        ],
    );
    let rsa = signed(Algorithm::RS256, RS256, CLAIMS);
    let modulus = &der("rsa.pkcs1.pub.pem")[9..265];
    check(
        keys(Algorithm::RS256),
        &[("the modulus itself", change_signature(&rsa, |_| modulus.to_vec()), JwtRefusal::Signature)],
    );
}

// ---- claims ----

#[test]
fn claims_have_their_types_and_bounds() {
    use JwtRefusal::{Claims, Expired, Lobby, NoExpiry, NotYet, Role, Subject, Tier, Time};
    let with = |more: &str| token(&format!(r#"{{"sub":"ann","exp":1000060,{more}}}"#));
    let exp = |exp: &str| token(&format!(r#"{{"sub":"ann","exp":{exp}}}"#));
    let sub = |sub: &str| token(&format!(r#"{{"sub":{sub},"exp":1000060}}"#));
    let deep = format!(r#""data":{}{}"#, "[".repeat(2000), "]".repeat(2000));
    let bytes = |claims: &[u8]| signed_by(Algorithm::HS256, &EncodingKey::from_secret(SECRET), HS256, claims);
    check(
        keys(Algorithm::HS256),
        &[
            ("no object", token(r#"["ann"]"#), Claims),
            ("a string", token(r#""ann""#), Claims),
            ("nothing", token(""), Claims),
            ("a token in the token", token(&headed(HS256)), Claims),
            ("not UTF-8", bytes(b"{\"sub\":\"\xff\",\"exp\":1000060}"), Claims),
            ("half of a surrogate pair", sub(r#""\ud83d""#), Claims),
            ("sub twice", token(r#"{"sub":"ann","sub":"bob","exp":1000060}"#), Claims),
            ("exp twice", token(r#"{"sub":"ann","exp":1,"exp":1000060}"#), Claims),
            ("a repeated member in data", with(r#""data":{"a":{"b":1,"b":2}}"#), Claims),
            ("deep JSON", with(&deep), Claims),
            ("no sub", token(r#"{"exp":1000060}"#), Subject),
            ("sub is empty", sub(r#""""#), Subject),
            ("sub is a number", sub("7"), Subject),
            ("sub null", sub("null"), Subject),
            ("sub is a list", sub(r#"["ann"]"#), Subject),
            ("sub is too long", sub(&format!("\"{}\"", "ü".repeat(65))), Subject),
            ("sub has a control character", sub(r#""ann\n""#), Subject),
            ("sub has NUL", sub(r#""ann\u0000""#), Subject),
            ("sub has DEL", sub(r#""ann\u007f""#), Subject),
            ("no exp", token(r#"{"sub":"ann"}"#), NoExpiry),
            ("exp in the past", exp("999989"), Expired),
            ("exp 0", exp("0"), Expired),
            ("exp is NaN", exp("NaN"), Claims),
            ("exp is infinite", exp("Infinity"), Claims),
            ("exp is beyond a double", exp("1e999"), Claims),
            ("exp is huge", exp("1e300"), Time),
            ("exp is negative", exp("-1"), Time),
            ("exp in milliseconds", exp("1000060000000"), Time),
            ("exp of 64 bits", exp("18446744073709551615"), Time),
            ("exp is a string", exp(r#""1000060""#), Time),
            ("exp null", exp("null"), Time),
            ("exp is true", exp("true"), Time),
            ("exp is a list", exp("[1000060]"), Time),
            ("nbf in the future", with(r#""nbf":1000011"#), NotYet),
            ("nbf is a string", with(r#""nbf":"0""#), Time),
            ("nbf is negative", with(r#""nbf":-1"#), Time),
            ("nbf is huge", with(r#""nbf":1e300"#), Time),
            ("lobby is no code", with(r#""lobby":"two words""#), Lobby),
            ("lobby is empty", with(r#""lobby":"""#), Lobby),
            ("lobby null", with(r#""lobby":null"#), Lobby),
            ("lobby is a list", with(r#""lobby":["chess"]"#), Lobby),
            ("an unknown tier", with(r#""tier":"gold""#), Tier),
            ("tier in capitals", with(r#""tier":"PRO""#), Tier),
            ("tier is a number", with(r#""tier":1"#), Tier),
            ("role is a list", with(r#""role":["host"]"#), Role),
            // What is wrong besides is reported first: a client must not come back with the next token of the same kind.
            ("expired, and for somebody else", token(r#"{"sub":"ann","exp":1,"aud":"shop"}"#), JwtRefusal::Audience),
        ],
    );
}

/// Nothing is parsed of the claims of a token with a wrong signature.
#[test]
fn the_claims_of_a_forged_token_do_not_matter() {
    let forged = |claims: &str| with_signature(HS256, claims, &[7; 32]);
    let deep = "[".repeat(100_000);
    let cases = ["", "{}", r#"{"sub":"ann","exp":1}"#, r#"{"sub":1}"#, &deep].map(forged);
    check(keys(Algorithm::HS256), &cases.map(|token| ("forged", token, JwtRefusal::Signature)));
}

/// A token in the query is at most as long as the request line, whose bound is that of the head.
#[test]
fn a_long_token_is_bounded_by_the_request_head() {
    let data = "x".repeat(Config::default().max_header_bytes.0);
    let claims = format!(r#"{{"sub":"ann","exp":1000060,"data":"{data}"}}"#);
    let mut world = super::sessions::world(Config::default(), Jwt::new(keys(Algorithm::HS256)));
    world.run(&format!("x > get /ws/chess?token={}\nx < http 414, body, eof", token(&claims)));
}
