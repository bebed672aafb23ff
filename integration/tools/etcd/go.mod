// What the tests build of etcd: the server, the store of a test cluster's API server.
// A module of its own, so that none of what it needs becomes a requirement of shimd.
module github.com/shimd/shimd/integration/tools/etcd

go 1.26.0

require go.etcd.io/etcd/server/v3 v3.7.3

require go.etcd.io/etcd/etcdctl/v3 v3.7.3
