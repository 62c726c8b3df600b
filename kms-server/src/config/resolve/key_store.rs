//! The section `keystore`, and the root key of its store.

use kms_core::CacheConfig;

use super::super::problem::Problem;
use super::super::schema::{RawFs, RawKeyStore, RawOuterKms};
use super::super::value::OneOrMany;
use super::context::Context;
use super::root_key::{is_inside, root_key};
use super::{aws, kms, postgres, vault};
use crate::settings::{BareStore, KeyStoreSettings, OuterKms, RootKeySource, RootSettings};

/// The variable that holds the root key where a config for KES names none.
const ROOT_KEY_VARIABLE: &str = "KMS_ROOT_KEY";

/// Checks the key store of the section. `outer` is the section `kms`.
pub fn key_store(
    mut raw: RawKeyStore,
    outer: Option<OneOrMany<RawOuterKms>>,
    cache: &CacheConfig,
    context: &mut Context<'_>,
) -> Result<KeyStoreSettings, Problem> {
    let has_other = raw.fs.is_some() || raw.vault.is_some() || raw.postgres.is_some() || raw.memory.is_some();
    // Beside another store, a section of AWS without a store does not count.
    raw.aws = raw.aws.filter(|aws| !has_other || aws.kms.is_some() || aws.secretsmanager.is_some());
    refuse_unsupported(&raw, context)?;
    refuse_two(&raw, context)?;
    if let Some(outer) = outer {
        let is_list = outer.is_list;
        let kms = kms::outer(outer, context)?;
        if is_list
            && raw.has_root_key()
            && let Some(raw) = raw.fs
        {
            if let KeyStoreSettings::Fs { path, root_key, create } = fs_store(raw, context)? {
                let own = OuterKms::Local(root_key.clone());
                if let Some(same) = kms.iter().find(|root| root.kms.is_same(&own)) {
                    return Err(context.problem(&same.section, kms::is_one("keystore.fs", context)));
                }
                return Ok(KeyStoreSettings::FsWithRoots { path, root_key, create, kms });
            }
            let message = "a directory of key files of KES has no further roots, expected none here";
            return Err(context.problem("kms", message));
        }
        return Ok(KeyStoreSettings::Wrapped { store: bare_store(raw, &kms, context)?, kms });
    }
    if raw.postgres.is_some() {
        return Err(context.problem("keystore.postgres", postgres::NO_ROOT));
    }
    match (raw.fs, raw.vault, raw.aws, raw.memory) {
        (Some(raw), ..) => fs_store(raw, context),
        (_, Some(raw), ..) => {
            Ok(KeyStoreSettings::Vault(Box::new(vault::vault(raw, "keystore.vault", context)?)))
        }
        (.., Some(raw), _) => aws::aws(raw, cache, context),
        (.., Some(_)) => {
            let message = "every key dies with the process, and with it all data that was encrypted under it";
            context.warn("keystore.memory", message);
            Ok(KeyStoreSettings::Memory)
        }
        (None, None, None, None) => {
            let message = "no key store, expected keystore.fs, keystore.postgres, keystore.vault, keystore.aws.kms, \
                keystore.aws.secretsmanager, or keystore.memory, which forgets all keys at the end";
            Err(context.problem("keystore", message))
        }
    }
}

/// Refuses a key store of KES that is not supported. If KES would not use it either, a warning is enough.
fn refuse_unsupported(raw: &RawKeyStore, context: &mut Context<'_>) -> Result<(), Problem> {
    let Some((name, what)) = raw.unsupported() else { return Ok(()) };
    let key = format!("keystore.{name}");
    let has_other = !present(raw).is_empty();
    if has_other && ["generic", "kes"].contains(&name) {
        context.warn_no_effect(&key, "no effect, as in KES 0.24: there is another key store");
        return Ok(());
    }
    let message = format!(
        "{what} is not supported as a key store, expected fs, postgres, vault, aws or memory (docs/from-kes.md says how to move)"
    );
    Err(context.problem(&key, message))
}

fn refuse_two(raw: &RawKeyStore, context: &Context<'_>) -> Result<(), Problem> {
    let present = present(raw);
    let [first, .., other] = present.as_slice() else { return Ok(()) };
    let (name, place) = (context.layers.name_of(*first), context.layers.place_of(*first));
    Err(context.problem(*other, format!("two key stores, expected one: {name} is at {place}")))
}

/// Returns the sections of all stores that are there.
fn present(raw: &RawKeyStore) -> Vec<&'static str> {
    let stores = [
        ("keystore.fs", raw.fs.is_some()),
        ("keystore.vault", raw.vault.is_some()),
        ("keystore.postgres", raw.postgres.is_some()),
        ("keystore.aws", raw.aws.is_some()),
        ("keystore.memory", raw.memory.is_some()),
    ];
    stores.into_iter().filter(|(_, is_present)| *is_present).map(|(key, _)| key).collect()
}

/// Checks a key store whose root key is that of the section `kms`.
fn bare_store(
    raw: RawKeyStore,
    kms: &[RootSettings],
    context: &mut Context<'_>,
) -> Result<BareStore, Problem> {
    if raw.has_root_key() {
        let place = context.layers.place_of("kms");
        let message =
            format!("two root keys, expected one: kms is at {place}; as a list [[kms]] it adds roots");
        let keys = ["keystore.fs.root_key_file", "keystore.fs.root_key_env"];
        let key = keys.into_iter().find(|key| context.layers.is_set(*key)).unwrap_or(keys[0]);
        return Err(context.problem(key, message));
    }
    match (raw.fs, raw.vault, raw.postgres) {
        (Some(raw), ..) => context
            .required_path(raw.path.as_deref(), "keystore.fs.path", "the directory of the store")
            .map(BareStore::Fs),
        (_, Some(raw), _) => Ok(BareStore::Vault(Box::new(vault::vault(raw, "keystore.vault", context)?))),
        (.., Some(raw)) => {
            postgres::refuse_unnamed(kms, context)?;
            Ok(BareStore::Postgres(Box::new(postgres::postgres(raw, context)?)))
        }
        (None, None, None) => {
            let message =
                "only keystore.fs, keystore.vault and keystore.postgres can have their root key here";
            Err(context.problem("kms", message))
        }
    }
}

fn fs_store(raw: RawFs, context: &mut Context<'_>) -> Result<KeyStoreSettings, Problem> {
    let file_key = "keystore.fs.root_key_file";
    let path =
        context.required_path(raw.path.as_deref(), "keystore.fs.path", "the directory of the store")?;
    let create = raw.create.is_some_and(|create| create.0);
    let source = root_key(raw.root_key_file.as_deref(), raw.root_key_env, "keystore.fs", context)?;
    let root_key = match source {
        Some(source) => source,
        None if context.is_for_kes => {
            let variable = context.environment.first_of(&[ROOT_KEY_VARIABLE]);
            let root_key = variable.map(|_| RootKeySource::Environment(ROOT_KEY_VARIABLE.to_owned()));
            return Ok(KeyStoreSettings::KesDirectory { path, root_key, create });
        }
        None => {
            let message = "no root key, expected one of: root_key_file = \"FILE\", made by 'kms init' or \
                'kms server --create' (on a volume that outlives the container, apart from the store); \
                root_key_env = \"VARIABLE\", which holds base64 of 32 random bytes; a section [kms.aws] or [kms.vault]";
            return Err(context.problem("keystore.fs", message));
        }
    };
    if let RootKeySource::File(file) = &root_key
        && is_inside(file, &path)
    {
        let message = format!(
            "the root key lies inside of the data directory {}: \
             a copy of that directory is not protected by its encryption",
            path.display()
        );
        context.warn(file_key, message);
    }
    Ok(if context.is_for_kes {
        KeyStoreSettings::KesDirectory { path, root_key: Some(root_key), create }
    } else {
        KeyStoreSettings::Fs { path, root_key, create }
    })
}
