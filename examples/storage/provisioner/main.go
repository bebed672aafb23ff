// Command provisioner makes PersistentVolumes for the claims of a StorageClass: a directory on the node that the claim's first pod was placed on.
//
// It runs as a DaemonSet. Each instance makes and removes the directories of its own node, below --directory, and leaves all other volumes alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const (
	name = "example.com/directory"
	// The scheduler's choice, on the claim.
	selectedNode = "volume.kubernetes.io/selected-node"
)

func main() {
	node := flag.String("node", os.Getenv("NODE_NAME"), "name of this node")
	directory := flag.String("directory", "/var/lib/example-volumes", "where the volumes are, on the node and in this container")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &provisioner{node: *node, directory: *directory}); err != nil {
		log.Fatalf("running the provisioner: %v", err)
	}
}

func run(ctx context.Context, p *provisioner) error {
	if p.node == "" {
		return fmt.Errorf("no node: set --node or NODE_NAME")
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	// Without leader election: every instance has volumes of its own.
	controller.NewProvisionController(ctx, client, name, p, controller.LeaderElection(false)).Run(ctx)
	return nil
}

type provisioner struct{ node, directory string }

// ShouldProvision leaves claims of pods on other nodes to the instances there.
func (p *provisioner) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[selectedNode] == p.node
}

// Provision makes the directory, then tells of the volume.
func (p *provisioner) Provision(_ context.Context, options controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	dir := filepath.Join(p.directory, options.PVName)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask: any user of a pod may write
		return nil, controller.ProvisioningFinished, err
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: options.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.node},
				}},
			}}}},
		},
	}, controller.ProvisioningFinished, nil
}

// ShouldDelete leaves volumes of other nodes to the instances there.
func (p *provisioner) ShouldDelete(_ context.Context, volume *corev1.PersistentVolume) bool {
	affinity := volume.Spec.NodeAffinity
	if affinity == nil || affinity.Required == nil || len(affinity.Required.NodeSelectorTerms) != 1 {
		return false
	}
	for _, requirement := range affinity.Required.NodeSelectorTerms[0].MatchExpressions {
		if requirement.Key == corev1.LabelHostname && len(requirement.Values) == 1 {
			return requirement.Values[0] == p.node
		}
	}
	return false
}

// Delete removes the directory and what is in it.
func (p *provisioner) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	local := volume.Spec.Local
	if local == nil || filepath.Dir(local.Path) != filepath.Clean(p.directory) {
		return &controller.IgnoredError{Reason: "it is not below " + p.directory}
	}
	return os.RemoveAll(local.Path)
}
