package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/criclient"
	"github.com/shimd/shimd/node/status"
)

// follow stays in touch with the runtime until the context ends.
//
//	      ┌──────────── gone ────────────┐
//	      v                              │
//	waiting ──it answers──> listing ──> listening: events wake workers, and all is listed anew now and then
//	                                     (without events: every second)
func (a *Agent) follow(ctx context.Context, c changes) {
	for ctx.Err() == nil {
		version, err := a.client.Version(ctx)
		if err != nil {
			a.disconnected(err)
			sleep(ctx, poll)
			continue
		}
		info, err := a.client.Status(ctx)
		if err != nil {
			a.disconnected(err)
			sleep(ctx, poll)
			continue
		}
		a.shared.runtime.Store(infoOf(version, info))
		a.mu.Lock()
		a.behind.Name, a.behind.Version, a.behind.Error = version.RuntimeName, version.RuntimeVersion, ""
		a.mu.Unlock()
		a.log.Info("connected to the container runtime", "name", version.RuntimeName, "version", version.RuntimeVersion)
		a.somethingChanged()
		a.listen(ctx, c)
		if ctx.Err() == nil {
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// listen returns when the runtime has gone.
func (a *Agent) listen(ctx context.Context, c changes) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := make(chan error, 1)
	listening := make(chan struct{}, 1)
	go func() {
		stream <- a.client.Events(ctx, func() { listening <- struct{}{} }, func(uid string) {
			select {
			case c.changed <- uid:
			case <-ctx.Done():
			}
		})
	}()
	period := relist
	timer := time.NewTimer(poll) // a runtime may not answer the subscription before the first event
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-listening:
			a.hearing(true)
		case err := <-stream:
			switch {
			case criclient.IsUnimplemented(err):
				a.log.Warn("the container runtime has no events; asking it every second", "error", err)
				a.hearing(false)
				period, stream = poll, nil
			default:
				a.disconnected(err)
				return
			}
		case <-timer.C:
		}
		timer.Reset(period)
		if !a.relist(ctx, c) {
			return
		}
	}
}

// relist tells the agent what is there of its pods, and wakes all workers.
func (a *Agent) relist(ctx context.Context, c changes) bool {
	owned, err := a.client.Owned(ctx, a.node.Owner)
	if err != nil {
		a.disconnected(err)
		return false
	}
	select {
	case c.connected <- owned:
	case <-ctx.Done():
		return false
	}
	select {
	case c.changed <- "":
	case <-ctx.Done():
		return false
	}
	return true
}

func infoOf(version *criv1.VersionResponse, status *criv1.StatusResponse) *runtimeInfo {
	info := &runtimeInfo{
		name: version.RuntimeName, groupsPolicy: status.GetFeatures().GetSupplementalGroupsPolicy(), recursiveReadOnly: map[string]bool{}, userNamespaces: map[string]bool{},
	}
	for _, handler := range status.GetRuntimeHandlers() {
		info.recursiveReadOnly[handler.Name] = handler.GetFeatures().GetRecursiveReadOnlyMounts()
		info.userNamespaces[handler.Name] = handler.GetFeatures().GetUserNamespaces()
	}
	return info
}

func (a *Agent) hearing(events bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.behind.Events = events
}

// notAsked stands for the error of a runtime before its first answer.
const notAsked = "not asked yet"

func (a *Agent) disconnected(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := "it ended the stream of events"
	if err != nil {
		text = err.Error()
	}
	if a.behind.Error == "" || a.behind.Error == notAsked {
		a.log.Error("the container runtime does not answer; pods are left as they are until it does", "endpoint", a.config.Endpoint, "error", text)
	}
	lost := a.behind.Error == ""
	a.behind.Error = text
	if lost {
		a.somethingChanged()
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// bare is what is known of a pod whose record is lost: enough to remove it.
func bare(pod criclient.Owned) desired {
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	return desired{File: pod.File, Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(pod.UID)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, SecurityContext: &corev1.PodSecurityContext{},
		},
	}}
}

// Status is all that the agent knows. Safe from any goroutine.
func (a *Agent) Status() status.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := status.Node{Node: a.config.NodeName, Folder: a.config.Folder, Runtime: a.behind, Pods: []status.Pod{}}
	if a.folder != nil {
		s.FolderError = a.folder.Error()
	}
	for _, e := range a.pods {
		if e.worker != nil {
			s.Pods = append(s.Pods, e.worker.status())
		}
	}
	for name, err := range a.problems {
		s.Files = append(s.Files, status.File{Name: name, Error: err.Error()})
	}
	s.Sort()
	return s
}

// Healthy says whether pods are looked after.
func (a *Agent) Healthy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.behind.Error != "" {
		return &unhealthy{a.behind.Error}
	}
	return nil
}

type unhealthy struct{ reason string }

func (u *unhealthy) Error() string { return "the container runtime does not answer: " + u.reason }
