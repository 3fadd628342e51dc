"""bbolt files (etcd-io/bbolt ``page.go``, ``db.go``, ``bucket.go``): a B+ tree of keys and values, in which buckets nest."""
