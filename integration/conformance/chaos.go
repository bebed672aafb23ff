package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Chaos calls one kill after the other, with a pause between, until the context ends; then it answers how many calls there were. A kill ends a node's
// shimd by SIGKILL and returns when another runs. The first that fails ends it all.
func Chaos(ctx context.Context, pause time.Duration, kills []func(context.Context) error) (int, error) {
	if len(kills) == 0 {
		return 0, errors.New("nothing to kill")
	}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return n, nil
		case <-time.After(pause):
		}
		if err := kills[n%len(kills)](ctx); err != nil {
			if ctx.Err() != nil {
				return n, nil //nolint:nilerr // cut short
			}
			return n, fmt.Errorf("killing shimd for the %dth time: %w", n+1, err)
		}
	}
}

// Witness are pods that run beside a suite and are looked at when it has ended: the same containers must run, never restarted.
type Witness struct {
	Kubectl    string // program
	Kubeconfig string
	Image      string // agnhost
	Pods       int
	seen       map[string]string
}

const witnessNamespace = "witness"

// witnessManifest is a Deployment whose pods are spread over all nodes, with two containers each: one that nothing is asked of, and one that is probed,
// by the kubelet and not through shimd: it stays ready while shimd is away.
const witnessManifest = `apiVersion: v1
kind: Namespace
metadata: {name: witness}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: witness, namespace: witness}
spec:
  replicas: %d
  selector: {matchLabels: {app: witness}}
  template:
    metadata: {labels: {app: witness}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: witness}}}
      containers:
      - name: idle
        image: %[2]s
        args: [pause]
      - name: probed
        image: %[2]s
        args: [netexec]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 5, timeoutSeconds: 10}
`

// Start makes the pods and returns when all are ready.
func (w *Witness) Start(ctx context.Context) error {
	if _, err := w.kubectl(ctx, fmt.Sprintf(witnessManifest, w.Pods, w.Image), "apply", "-f", "-"); err != nil {
		return err
	}
	if _, err := w.kubectl(ctx, "", "-n", witnessNamespace, "rollout", "status", "deployment/witness", "--timeout=5m"); err != nil {
		return err
	}
	pods, err := w.pods(ctx)
	if err != nil {
		return err
	}
	w.seen = containersOf(pods)
	if len(w.seen) != 2*w.Pods {
		return fmt.Errorf("starting witnesses: %d containers run, not %d", len(w.seen), 2*w.Pods)
	}
	return nil
}

// Check says what became of the containers that Start saw.
func (w *Witness) Check(ctx context.Context) error {
	pods, err := w.pods(ctx)
	if err != nil {
		return err
	}
	now := containersOf(pods)
	var changed []string
	for name, before := range w.seen {
		if now[name] != before {
			changed = append(changed, fmt.Sprintf("%s was %s, is %q", name, before, now[name]))
		}
	}
	if len(changed) > 0 {
		slices.Sort(changed)
		return fmt.Errorf("%d of %d containers are not what they were:\n  %s", len(changed), len(w.seen), strings.Join(changed, "\n  "))
	}
	return nil
}

// Remove removes the pods.
func (w *Witness) Remove(ctx context.Context) error {
	_, err := w.kubectl(ctx, "", "delete", "namespace", witnessNamespace, "--wait", "--timeout=2m")
	return err
}

func (w *Witness) pods(ctx context.Context) ([]corev1.Pod, error) {
	text, err := w.kubectl(ctx, "", "-n", witnessNamespace, "get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("reading the witnesses: %w", err)
	}
	return list.Items, nil
}

// containersOf are the running containers of pods, by pod and name.
func containersOf(pods []corev1.Pod) map[string]string {
	found := map[string]string{}
	for _, pod := range pods {
		for _, status := range pod.Status.ContainerStatuses {
			if status.State.Running != nil {
				found[pod.Name+"/"+status.Name] = fmt.Sprintf("%s on %s, restarted %d times", status.ContainerID, pod.Spec.NodeName, status.RestartCount)
			}
		}
	}
	return found
}

func (w *Witness) kubectl(ctx context.Context, input string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, w.Kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.Kubeconfig)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
