// Command operator turns `kind: MyApp` into a Deployment and a Service, and keeps them so.
//
// Both belong to the MyApp by owner references: when it is deleted, the garbage collector deletes them. What can't be owned, a line in a ConfigMap of
// the operator's own namespace that lists the address of every MyApp in the cluster, is taken out by a finalizer.
package main

import (
	"flag"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	clientgo "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func main() {
	namespace := flag.String("namespace", os.Getenv("POD_NAMESPACE"), "where the ConfigMap with all addresses is")
	flag.Parse()
	logf.SetLogger(zap.New())
	if err := run(*namespace); err != nil {
		log.Fatalf("running the operator: %v", err)
	}
}

func run(namespace string) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgo.AddToScheme, addMyApp} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 scheme,
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: ":8081",
	})
	if err != nil {
		return err
	}
	if err := setUp(manager, namespace); err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}
