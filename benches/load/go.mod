// The load generator of benches/compare-kes and benches/scale.
module kms.test/load

go 1.26
