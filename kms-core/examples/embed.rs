//! Envelope encryption in a program of your own, without the server.
//!
//! Run it with `cargo run -p kms-core --example embed`.
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::error::Error;

use kms_core::store::MemoryStore;
use kms_core::{CacheConfig, ErrorKind, Identity, KeyName, KeyRing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Any `KeyStore` will do here: kms-fs has one on disk. This one loses its keys when the program ends.
    let ring = KeyRing::new(MemoryStore::new(), CacheConfig::default());
    let client = ring.client(Identity::of_program("invoices"));

    let name = KeyName::new("invoices")?;
    match client.create(&name).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => println!("master key: {name}"),
    }

    // Each object has a data encryption key. Encrypt the object with `plaintext`, forget it, and store `ciphertext`.
    let context = b"invoices/2026/11/4711.pdf";
    let data_key = client.generate(&name, context).await?;
    println!("sealed data key: {} bytes", data_key.ciphertext.len());

    let opened = client.decrypt(&name, &data_key.ciphertext, context).await?;
    println!("opened again: {}", if opened.expose() == data_key.plaintext.expose() { "yes" } else { "no" });

    let elsewhere = client.decrypt(&name, &data_key.ciphertext, b"another object").await;
    let refused = matches!(elsewhere, Err(error) if error.kind() == ErrorKind::NotAuthentic);
    println!("refused in another context: {}", if refused { "yes" } else { "no" });
    Ok(())
}
