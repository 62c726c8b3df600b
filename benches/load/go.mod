// The load generators of benches: that of key servers, and in s3 that of a MinIO.
module kms.test/load

go 1.26
