//! The config, as far as its schema.

#[path = "../../../kms-server/src/config/environment.rs"]
pub mod environment;
#[path = "../../../kms-server/src/config/expand.rs"]
pub mod expand;
#[path = "../../../kms-server/src/config/extract.rs"]
pub mod extract;
#[path = "../../../kms-server/src/config/former.rs"]
pub mod former;
#[path = "../../../kms-server/src/config/layers.rs"]
pub mod layers;
#[path = "../../../kms-server/src/config/log_level.rs"]
pub mod log_level;
#[path = "../../../kms-server/src/config/node.rs"]
pub mod node;
#[path = "../../../kms-server/src/config/resolve/pattern.rs"]
pub mod pattern;
#[path = "../../../kms-server/src/config/problem.rs"]
pub mod problem;
#[path = "../../../kms-server/src/config/schema.rs"]
pub mod schema;
#[path = "../../../kms-server/src/config/toml.rs"]
pub mod toml;
#[path = "../../../kms-server/src/config/value.rs"]
pub mod value;
#[path = "../../../kms-server/src/config/yaml.rs"]
pub mod yaml;
