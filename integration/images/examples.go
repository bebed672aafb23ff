package images

import "slices"

// Images of the examples. Those of their own programs are made by FromProgram's recipe.
const (
	Nginx  = "docker.io/library/nginx:latest"
	Ubuntu = "docker.io/library/ubuntu:latest"
)

// exampleImages are a cluster's, and what the manifests in examples/ name.
func exampleImages() []named {
	return slices.Concat(clusterImages(), examplePrograms(), []named{
		{agnhost(), []string{Agnhost}},
		{nginx("latest"), []string{Nginx}},
		{nginx("1.28"), []string{"docker.io/library/nginx:1.28"}},
		{nginx("1.29"), []string{"docker.io/library/nginx:1.29"}},
		{debianRoot(), []string{Ubuntu, "docker.io/library/debian:bookworm", "docker.io/library/debian:latest"}},
		{perl(), []string{"docker.io/library/perl:latest", "docker.io/library/perl:5.34.0"}},
		{resourceConsumer(), []string{e2e + "resource-consumer:1.14"}},
		{etcd(), []string{Etcd}},
	})
}
