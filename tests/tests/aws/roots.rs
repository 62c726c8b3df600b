//! A CMK as one of several roots, and the entries of roots in Secrets Manager.

use std::sync::Arc;

use kms_aws::{AwsWrapper, WrapperConfig};
use kms_core::primitives::{Cipher, SealingKey, SecretBytes, SecretKey};
use kms_core::roots::{LocalRoot, Making, Root, RootId, RootState, Roots, WrappedOneByOne};
use kms_core::store::{EntryName, KeyStore, MemoryStore};
use kms_core::{ErrorKind, ListQuery, contract};
use kms_tests::localstack::{Aws, Fault};
use serde_json::json;

use super::keys::{key, kind};

fn local(byte: u8) -> Root {
    let root = LocalRoot::new(SealingKey::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256));
    Root::new(root.id(), Arc::new(root))
}

fn roots(store: &Arc<dyn KeyStore>, all: Vec<Root>) -> Roots {
    let form = Arc::new(WrappedOneByOne::new(&all));
    Roots::new(Arc::clone(store), all, form).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cmk_and_a_local_root_key_each_open_the_store() {
    let aws = Aws::start().await;
    let cmk = aws.ask("CreateKey", json!({})).await;
    let arn = cmk["KeyMetadata"]["Arn"].as_str().unwrap();
    let config = WrapperConfig { connection: aws.connection(), key: arn.to_owned() };
    let cmk = Root::new(RootId::of_aws(arn), Arc::new(AwsWrapper::open(config).await.unwrap()));
    let store: Arc<dyn KeyStore> = Arc::new(MemoryStore::new());
    let both = roots(&store, vec![cmk.clone(), local(1)]);
    let opened = both.clone().open(Making::OnEmpty).await.unwrap();
    assert!(opened.is_new && opened.warnings.is_empty(), "{:?}", opened.warnings);
    let (name, record) = (EntryName::from(&key("my-key")), SecretBytes::from(b"record".as_slice()));
    opened.store.create(&name, &record).await.unwrap();
    aws.take_seen();
    for _ in 0..10 {
        assert!(opened.store.get(&name).await.unwrap() == record);
    }
    assert!(aws.take_seen().is_empty(), "no record costs a call of AWS");
    let alone = roots(&store, vec![cmk.clone()]).open(Making::OnEmpty).await.unwrap();
    assert!(alone.store.get(&name).await.unwrap() == record);
    aws.fail(Fault::Reset);
    let states: Vec<_> = both.status().await.unwrap().roots.iter().map(|root| root.state).collect();
    assert_eq!(states, [RootState::Away, RootState::Opens]);
    let served = both.clone().open(Making::OnEmpty).await.unwrap();
    assert!(served.store.get(&name).await.unwrap() == record && served.store.closed() == 1);
    let pending = roots(&store, vec![cmk]).open(Making::OnEmpty).await.unwrap();
    assert_eq!(kind(pending.store.get(&name).await), Some(ErrorKind::Unreachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_roots_are_kept_by_secrets_manager_and_not_listed() {
    let aws = Aws::start().await;
    let store: Arc<dyn KeyStore> = Arc::new(aws.secrets(|config| config.recovery_window = 0).await);
    let both = roots(&store, vec![local(1), local(2)]);
    let opened = both.clone().open(Making::OnEmpty).await.unwrap();
    assert!(opened.is_new && opened.store.list(&ListQuery::prefix("")).await.unwrap().names.is_empty());
    contract::key_store(&opened.store).await;
    both.remove(local(1).id()).await.unwrap();
    both.add(local(1).id()).await.unwrap();
    assert_eq!(both.status().await.unwrap().open(), 2);
}
