//! Checks of JSON Web Tokens, which take place on the thread of the loop.
//!
//!     cargo bench --features jwt --bench jwt

#[cfg(feature = "jwt")]
criterion::criterion_group!(benches, with_feature::checks);
#[cfg(feature = "jwt")]
criterion::criterion_main!(benches);

/// Without the feature, because `cargo bench --bench '*'` refuses a bench that requires one.
#[cfg(not(feature = "jwt"))]
fn main() {
    println!("this bench needs `--features jwt`");
}

#[cfg(feature = "jwt")]
mod with_feature {
    use std::fs;
    use std::hint::black_box;
    use std::path::Path;

    use criterion::Criterion;
    use data_encoding::{BASE64, BASE64URL_NOPAD};
    use jsonwebtoken::crypto::sign;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use lobbyd::apps::{Jwt, JwtKeys, JwtRefusal};

    const SECRET: &[u8] = b"a secret of the benches, not of a server";
    const CLAIMS: &str = r#"{"sub":"ann","exp":2000000000,"lobby":"chess","tier":"pro","data":{"rating":1850}}"#;

    fn key(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
        fs::read(path).expect("a key of the tests")
    }

    fn der(name: &str) -> Vec<u8> {
        let text = String::from_utf8(key(name)).expect("ASCII");
        let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        BASE64.decode(lines.as_bytes()).expect("base64")
    }

    fn token(alg: Algorithm, key: &EncodingKey) -> String {
        let input =
            [format!(r#"{{"alg":"{alg:?}"}}"#).as_str(), CLAIMS].map(|part| BASE64URL_NOPAD.encode(part.as_bytes()));
        let input = input.join(".");
        format!("{input}.{}", sign(input.as_bytes(), key, alg).expect("the key is valid"))
    }

    pub fn checks(c: &mut Criterion) {
        let pem = |name| JwtKeys::pem(&key(name)).expect("a key");
        let secret = JwtKeys::secret(SECRET).expect("a secret");
        for (alg, keys, private) in [
            (Algorithm::HS256, secret, EncodingKey::from_secret(SECRET)),
            (Algorithm::RS256, pem("rsa.pub.pem"), EncodingKey::from_rsa_der(&der("rsa.pem"))),
            (Algorithm::ES256, pem("ec.pub.pem"), EncodingKey::from_ec_der(&der("ec.pem"))),
            (Algorithm::EdDSA, pem("ed.pub.pem"), EncodingKey::from_ed_der(&der("ed.pem"))),
        ] {
            let jwt = Jwt::new(keys);
            let good = token(alg, &private);
            let forged = good.replacen(".ey", ".ez", 1);
            let (input, _) = good.rsplit_once('.').expect("three parts");
            let short = &format!("{input}.AAAA");
            assert!(jwt.check(&good, 0).is_ok());
            assert_eq!(jwt.check(&forged, 0), Err(JwtRefusal::Signature));
            assert_eq!(jwt.check(short, 0), Err(JwtRefusal::Signature));
            c.bench_function(&format!("jwt/{alg:?}/accepted"), |b| b.iter(|| jwt.check(black_box(&good), 0).is_ok()));
            c.bench_function(&format!("jwt/{alg:?}/forged"), |b| b.iter(|| jwt.check(black_box(&forged), 0).is_ok()));
            c.bench_function(&format!("jwt/{alg:?}/cut off"), |b| b.iter(|| jwt.check(black_box(short), 0).is_ok()));
        }
    }
}
