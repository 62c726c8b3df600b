//! The config, as far as its schema.

#[path = "../../../kms-server/src/config/duration.rs"]
pub mod duration;
#[path = "../../../kms-server/src/config/environment.rs"]
pub mod environment;
#[path = "../../../kms-server/src/config/former.rs"]
pub mod former;
#[path = "../../../kms-server/src/access/glob.rs"]
pub mod glob;
#[path = "../../../kms-server/src/config/log_level.rs"]
pub mod log_level;
#[path = "../../../kms-server/src/config/pattern.rs"]
pub mod pattern;
#[path = "../../../kms-server/src/config/places.rs"]
pub mod places;
#[path = "../../../kms-server/src/config/problem.rs"]
pub mod problem;
#[path = "../../../kms-server/src/config/schema.rs"]
pub mod schema;
#[path = "../../../kms-server/src/config/sections.rs"]
pub mod sections;
#[path = "../../../kms-server/src/config/toml.rs"]
pub mod toml;
#[path = "../../../kms-server/src/config/tree.rs"]
pub mod tree;
#[path = "../../../kms-server/src/config/yaml.rs"]
pub mod yaml;
