package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/shimd/shimd/integration/controlgroup"
)

// rackName stands for the control plane where nodes have their names.
const rackName = "rack"

// cgroupName is unique on the machine for each directory, so that clusters do not mix.
func cgroupName(dir, node string) string {
	sum := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("shimd-test-cluster-%x-%s", sum[:4], node)
}

// systemGroup is where a node's own programs are, beside its pods.
func systemGroup(name string) string { return name + "/system" }

// runtimeGroup is added to a node's control group's name for the one of pods whose client names no parent: shimd wants a name without a path there.
const runtimeGroup = "-shimd"

// makeGroups makes a node's control group. It weighs what the caller does: on a busy machine a cluster would starve beside a session that is preferred.
func makeGroups(name string) error {
	return errors.Join(controlgroup.New(name), controlgroup.NewLeaf(systemGroup(name)), controlgroup.SetShares(name, controlgroup.CallersShares()))
}

func removeGroups(name string) error {
	return errors.Join(controlgroup.Remove(name), controlgroup.Remove(name+runtimeGroup))
}
