//! Every form of config in the field loads, and each value lands where it should.

mod files;
mod key_stores;
mod loading;
mod mistakes;
mod values;
mod warnings;
