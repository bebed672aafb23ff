package node

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/metrics"
	"github.com/shimd/shimd/node/plan"
	"github.com/shimd/shimd/node/volume"
)

// Pods are all pods that the agent looks after, with the newest status of each. They are shared and must not be changed. Safe from any goroutine.
func (a *Agent) Pods() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	pods := make([]*corev1.Pod, 0, len(a.pods))
	for _, e := range a.pods {
		pods = append(pods, e.shown())
	}
	slices.SortFunc(pods, func(x, y *corev1.Pod) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.UID, y.UID))
	})
	return pods
}

// Pod is one of them, by its name; of two with one name, that which does not have to go.
func (a *Agent) Pod(namespace, name string) (*corev1.Pod, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *corev1.Pod
	for _, e := range a.pods {
		if e.Pod.Namespace == namespace && e.Pod.Name == name && (found == nil || !e.terminating) {
			found = e.shown()
		}
	}
	return found, found != nil
}

// PodOf is the one of a UID.
func (a *Agent) PodOf(uid string) (*corev1.Pod, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.pods[uid]
	if e == nil {
		return nil, false
	}
	return e.shown(), true
}

func (e *entry) shown() *corev1.Pod {
	if e.worker == nil {
		return e.Pod
	}
	return e.worker.told.Load().pod
}

// Run is a container of a pod as the runtime had it last.
type Run = plan.Container

// Container is the latest run of a container of a pod, whatever its state. Safe from any goroutine.
func (a *Agent) Container(uid, name string) (Run, bool) {
	a.mu.Lock()
	e := a.pods[uid]
	a.mu.Unlock()
	if e == nil || e.worker == nil {
		return Run{}, false
	}
	return plan.Last(e.worker.told.Load().seen, name)
}

// Runtime is the connection to the container runtime, for who else asks it.
func (a *Agent) Runtime() *criclient.Client { return a.client }

// Volumes is the agent's directory, for who measures it.
func (a *Agent) Volumes() *volume.Store { return a.store }

// Active are the pods that take something of the node: those that were let in and have not ended. They are shared and must not be changed.
func (a *Agent) Active() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.active()
}

func (a *Agent) active() []*corev1.Pod {
	pods := make([]*corev1.Pod, 0, len(a.pods))
	for _, e := range a.pods {
		if e.worker == nil || e.worker.usesNode() {
			pods = append(pods, e.shown())
		}
	}
	return pods
}

// Evict ends a pod for good: its phase becomes Failed, with the verdict's words, once its containers have ended. It answers whether there is such a
// pod. The first verdict on a pod stands.
func (a *Agent) Evict(uid string, verdict plan.Verdict) bool {
	a.mu.Lock()
	e := a.pods[uid]
	a.mu.Unlock()
	if e == nil || e.worker == nil {
		return false
	}
	if e.worker.evicted.CompareAndSwap(nil, &verdict) {
		tell(a.cluster, e.Pod, "", corev1.EventTypeWarning, verdict.Reason, verdict.Message)
	}
	e.worker.wake()
	return true
}

// Addresses are the node's.
func (a *Agent) Addresses() []string { return a.node.IPs }

// Counts are how many pods and containers there are.
func (a *Agent) Counts() metrics.Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := metrics.Counts{Desired: len(a.pods), Containers: map[string]int{}}
	for _, e := range a.pods {
		if e.worker == nil {
			continue
		}
		seen := e.worker.told.Load().seen
		if current, ok := plan.Current(seen); ok && current.Ready {
			counts.Pods++
		}
		for _, run := range seen.Containers {
			counts.Containers[map[plan.State]string{plan.Created: "created", plan.Running: "running", plan.Exited: "exited", plan.Unknown: "unknown"}[run.State]]++
		}
	}
	return counts
}
