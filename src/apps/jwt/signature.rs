//! Algorithms, and the check of a signature.
//!
//! The provider of the cryptography is named in each call. `jsonwebtoken` has one for the process too, which panics at its
//! first use if the program's other dependencies turn on both of its backends.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};

/// Algorithms of signatures (RFC 7518 section 3, RFC 8037, RFC 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alg {
    Hs256,
    Rs256,
    Es256,
    Ed25519,
}

impl Alg {
    /// Returns the algorithm with this name in `alg`. RFC 9864 names `EdDSA` with its curve.
    pub(super) fn named(name: &str) -> Option<Alg> {
        match name {
            "HS256" => Some(Alg::Hs256),
            "RS256" => Some(Alg::Rs256),
            "ES256" => Some(Alg::Es256),
            "EdDSA" | "Ed25519" => Some(Alg::Ed25519),
            _ => None,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Alg::Hs256 => Algorithm::HS256,
            Alg::Rs256 => Algorithm::RS256,
            Alg::Es256 => Algorithm::ES256,
            Alg::Ed25519 => Algorithm::EdDSA,
        }
    }
}

/// A key and the one algorithm that it is used with (RFC 8725 section 3.1).
#[derive(Clone)]
pub(super) struct Key {
    alg: Alg,
    key: DecodingKey,
    signature_bytes: usize,
}

impl Key {
    pub(super) fn hs256(secret: &[u8]) -> Key {
        Key { alg: Alg::Hs256, key: DecodingKey::from_secret(secret), signature_bytes: 32 }
    }

    /// A public key with the modulus and the exponent, both without leading zeros.
    pub(super) fn rs256(modulus: &[u8], exponent: &[u8]) -> Key {
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Key { alg: Alg::Rs256, key, signature_bytes: modulus.len() }
    }

    /// A public key on P-256: 4, x, y.
    pub(super) fn es256(point: &[u8; 65]) -> Key {
        Key { alg: Alg::Es256, key: DecodingKey::from_ec_der(point), signature_bytes: 64 }
    }

    pub(super) fn ed25519(point: &[u8; 32]) -> Key {
        Key { alg: Alg::Ed25519, key: DecodingKey::from_ed_der(point), signature_bytes: 64 }
    }

    pub(super) fn alg(&self) -> Alg {
        self.alg
    }

    /// Returns whether `signature` is one of `input` by this key. A signature of the wrong length costs nothing.
    pub(super) fn verifies(&self, input: &[u8], signature: &[u8]) -> bool {
        if signature.len() != self.signature_bytes {
            return false;
        }
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&self.alg.algorithm(), &self.key);
        verifier.is_ok_and(|verifier| verifier.verify(input, &signature.to_vec()).is_ok())
    }
}

/// Checks the four algorithms with the examples of RFC 7515 appendix A and RFC 8037 appendix A.4.
pub(super) fn self_test() -> Result<(), String> {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let [secret, n, x, y, ed] = [
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgN\
         MsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xs\
         mtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    ]
    .map(decoded);
    let point: [u8; 65] = [&[4][..], &x, &y].concat().try_into().map_err(|_| "a point has 65 bytes")?;
    let ed: [u8; 32] = ed.try_into().map_err(|_| "a point has 32 bytes")?;
    let examples = [
        (
            "HS256",
            Key::hs256(&secret),
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}"),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            "RS256",
            Key::rs256(&n, &[1, 0, 1]),
            format!("eyJhbGciOiJSUzI1NiJ9.{claims}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr\
             7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi\
             12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypG\
             lUPQGe77Rw",
        ),
        (
            "ES256",
            Key::es256(&point),
            format!("eyJhbGciOiJFUzI1NiJ9.{claims}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            "EdDSA",
            Key::ed25519(&ed),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (name, key, input, signature) in examples {
        if !key.verifies(input.as_bytes(), &decoded(signature)) {
            return Err(format!("this build does not verify the example of {name} in its RFC"));
        }
    }
    Ok(())
}

/// Decodes a constant.
fn decoded(text: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfcs_are_verified() {
        assert_eq!(self_test(), Ok(()));
    }
}
