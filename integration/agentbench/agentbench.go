// Package agentbench measures node agents side by side, each on a node of its own in one cluster: how long a pod takes from its binding to Running in
// the API server, how long many pods take, and what the agent and its runtime cost at rest.
//
// What is measured is what the API server tells one watcher, so both agents are seen with the same eyes. Starting a cluster is its caller's.
package agentbench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Options of a run.
type Options struct {
	Image    string // with sleep; it must be pulled by the first pod
	Rounds   int    // pods bound one after the other, on each node
	Replicas int    // of the Deployment
	AtRest   int    // pods that stand still while memory and CPU are looked at
	Rest     time.Duration
	Progress func(format string, args ...any)
}

// Node is what is measured.
type Node struct {
	Name  string
	Agent string
	// Processes answers what the agent and the runtime (daemon and keeper) take.
	Processes func() (agent, runtime Use, err error)
}

// Use of some processes.
type Use struct {
	MiB float64 `json:"mib"` // proportional set size
	CPU float64 `json:"cpu"` // seconds
}

// Result is of one node.
type Result struct {
	Agent         string  `json:"agent"`
	RunningP50    float64 `json:"bindingToRunningP50ms"`
	RunningP95    float64 `json:"bindingToRunningP95ms"`
	GoneP50       float64 `json:"deletionToGoneP50ms"`
	Deployment    float64 `json:"deploymentReadySeconds"`
	Replicas      int     `json:"replicas"`
	AtRest        int     `json:"podsAtRest"`
	AgentMiB      float64 `json:"agentMiB"`
	RuntimeMiB    float64 `json:"runtimeMiB"`
	AgentCPU      float64 `json:"agentCPUPercent"` // of a core
	RuntimeCPU    float64 `json:"runtimeCPUPercent"`
	EmptyAgentMiB float64 `json:"emptyAgentMiB"`
}

const (
	namespace = "agentbench"
	// scheduler is nobody: pods are bound by the measurement itself.
	scheduler = "agentbench"
	warmUp    = 3
	// patience is for all replicas together; a failed measurement must end.
	patience = 10 * time.Minute
)

// Run measures the nodes in turn: one pod on each, again and again, so that noise of the machine meets both alike; then what can't be interleaved.
func Run(ctx context.Context, api *API, nodes []Node, opts Options) (_ []Result, err error) {
	if err := api.createNamespace(ctx, namespace); err != nil {
		return nil, err
	}
	watch, err := api.watchPods(ctx, namespace)
	if err != nil {
		return nil, err
	}
	defer watch.close()
	results := make([]Result, len(nodes))
	running, gone := make([][]time.Duration, len(nodes)), make([][]time.Duration, len(nodes))
	opts.Progress("%d pods on each node, one after the other", opts.Rounds)
	for round := range opts.Rounds + warmUp {
		for i, node := range nodes {
			r, g, err := one(ctx, api, watch, node, fmt.Sprintf("%s-%d", node.Agent, round), opts.Image)
			if err != nil {
				return nil, fmt.Errorf("pod %d on %s with %s: %w", round, node.Name, node.Agent, err)
			}
			if round >= warmUp {
				running[i], gone[i] = append(running[i], r), append(gone[i], g)
			}
		}
	}
	for i, node := range nodes {
		r := &results[i]
		*r = Result{Agent: node.Agent, Replicas: opts.Replicas, AtRest: opts.AtRest,
			RunningP50: percentile(running[i], 0.5), RunningP95: percentile(running[i], 0.95), GoneP50: percentile(gone[i], 0.5)}
		if err := many(ctx, api, node, opts, r); err != nil {
			return nil, fmt.Errorf("%s with %s: %w", node.Name, node.Agent, err)
		}
	}
	return results, nil
}

// one binds a pod and waits for Running, then deletes it and waits until it is gone. Times are those of the watch's events.
func one(ctx context.Context, api *API, watch *watch, node Node, name, image string) (running, gone time.Duration, err error) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: sleeper(image)}
	pod.Spec.SchedulerName = scheduler
	if err := api.create(ctx, "/api/v1/namespaces/"+namespace+"/pods", pod); err != nil {
		return 0, 0, err
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: node.Name}}
	if err := api.create(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name+"/binding", binding); err != nil {
		return 0, 0, err
	}
	bound, err := watch.await(ctx, name, "to be bound", func(e event) bool { return e.pod.Spec.NodeName != "" })
	if err != nil {
		return 0, 0, err
	}
	ran, err := watch.await(ctx, name, "to run", func(e event) bool { return e.pod.Status.Phase == corev1.PodRunning })
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := api.remove(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name); err != nil {
		return 0, 0, err
	}
	left, err := watch.await(ctx, name, "to be gone", func(e event) bool { return e.kind == "DELETED" })
	return ran.Sub(bound), left.Sub(begin), err
}

// sleeper ends at once on SIGTERM: how long a program takes to heed it is not the agent's.
func sleeper(image string) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{
			Name: "main", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"},
		}},
	}
}

// many starts a Deployment on the node, and looks at a smaller one at rest.
func many(ctx context.Context, api *API, node Node, opts Options, r *Result) error {
	empty, _, err := node.Processes()
	if err != nil {
		return err
	}
	r.EmptyAgentMiB = empty.MiB
	opts.Progress("%s: a Deployment of %d", node.Agent, opts.Replicas)
	took, err := deploy(ctx, api, node, "many", opts.Replicas, opts.Image)
	if err != nil {
		return err
	}
	r.Deployment = took.Seconds()
	if err := undeploy(ctx, api, node, "many"); err != nil {
		return err
	}
	opts.Progress("%s: %d pods at rest", node.Agent, opts.AtRest)
	if _, err := deploy(ctx, api, node, "rest", opts.AtRest, opts.Image); err != nil {
		return err
	}
	sleep(ctx, 10*time.Second) // what is left of the starts
	agentBefore, runtimeBefore, err := node.Processes()
	if err != nil {
		return err
	}
	begin := time.Now()
	sleep(ctx, opts.Rest)
	agent, runtime, err := node.Processes()
	if err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	r.AgentMiB, r.RuntimeMiB = agent.MiB, runtime.MiB
	r.AgentCPU, r.RuntimeCPU = (agent.CPU-agentBefore.CPU)/seconds*100, (runtime.CPU-runtimeBefore.CPU)/seconds*100
	return errors.Join(undeploy(ctx, api, node, "rest"), ctx.Err())
}

func deploy(ctx context.Context, api *API, node Node, name string, replicas int, image string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	labels := map[string]string{"app": name + "-" + node.Agent}
	spec := sleeper(image)
	spec.NodeSelector = map[string]string{corev1.LabelHostname: node.Name}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: labels["app"], Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels}, //nolint:gosec // a flag's small number
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
	begin := time.Now()
	if err := api.create(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments", deployment); err != nil {
		return 0, err
	}
	for {
		var now appsv1.Deployment
		if err := api.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+labels["app"], &now); err != nil {
			return 0, err
		}
		if int(now.Status.ReadyReplicas) == replicas {
			return time.Since(begin), nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return 0, fmt.Errorf("waiting for %d replicas of %s, %d are ready: %w", replicas, labels["app"], now.Status.ReadyReplicas, ctx.Err())
		}
	}
}

func undeploy(ctx context.Context, api *API, node Node, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	app := name + "-" + node.Agent
	if err := api.remove(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+app); err != nil {
		return err
	}
	for {
		var left corev1.PodList
		if err := api.get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector=app%3D"+app, &left); err != nil {
			return err
		}
		if len(left.Items) == 0 {
			return nil
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return fmt.Errorf("waiting for the pods of %s to be gone, %d are left: %w", app, len(left.Items), ctx.Err())
		}
	}
}

// sleep answers false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// percentile is in milliseconds.
func percentile(samples []time.Duration, share float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return float64(sorted[min(len(sorted)-1, int(share*float64(len(sorted))))].Microseconds()) / 1000
}
