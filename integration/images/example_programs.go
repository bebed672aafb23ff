package images

// Names of images that hold the programs in examples/, and one that an example runs.
const (
	exampleOperator     = "registry.k8s.io/shimd/example-operator:1"
	exampleEtcdOperator = "registry.k8s.io/shimd/example-etcd-operator:1"
	exampleProvisioner  = "registry.k8s.io/shimd/example-provisioner:1"
	metricsServer       = "registry.k8s.io/metrics-server/metrics-server:v0.9.0"
)

// examplePrograms are single static programs.
func examplePrograms() []named {
	return []named{
		{programImage(Program{Module: "examples", Package: "./operator"}), []string{exampleOperator}},
		{programImage(Program{Module: "examples", Package: "./etcd-operator"}), []string{exampleEtcdOperator}},
		{programImage(Program{Module: "examples", Package: "./storage/provisioner"}), []string{exampleProvisioner}},
		{programImage(Program{Module: "integration/tools/metrics-server", Package: "sigs.k8s.io/metrics-server/cmd/metrics-server"}), []string{metricsServer}},
	}
}
