//! Envelope encryption in a program of your own, without the server.
//!
//! Run it with `cargo run -p kms-core --example embed`.
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::error::Error;
use std::time::Duration;

use kms_core::{CacheConfig, ErrorKind, Identity, KeyName, KeyRing, Kms, MemoryStore, Request};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Any `KeyStore` will do here: kms-fs has one on disk. This one forgets its keys at the end.
    let kms = KeyRing::new(MemoryStore::new(), CacheConfig::default());

    // Whoever asks has an identity: created keys name it, and no identity can take all reads of the store.
    let me = Identity::of_public_key(b"the public key of this program");
    let request = || Request::new(me, Duration::from_secs(5));

    let name = KeyName::new("invoices")?;
    match kms.create(&request(), &name).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => println!("master key: {name}"),
    }

    // One data encryption key an object. Encrypt the object with `plaintext`, forget it, keep `ciphertext`.
    let context = b"invoices/2026/11/4711.pdf";
    let dek = kms.generate(&request(), &name, context).await?;
    println!("sealed data key: {} bytes", dek.ciphertext.len());

    let opened = kms.decrypt(&request(), &name, &dek.ciphertext, context).await?;
    println!("opened again: {}", if opened.expose() == dek.plaintext.expose() { "yes" } else { "no" });

    let elsewhere = kms.decrypt(&request(), &name, &dek.ciphertext, b"another object").await;
    let refused = matches!(elsewhere, Err(error) if error.kind() == ErrorKind::NotAuthentic);
    println!("refused in another context: {}", if refused { "yes" } else { "no" });
    Ok(())
}
