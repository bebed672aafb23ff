package main

import (
	"context"
	"fmt"
	"time"

	etcdserverpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// again is how soon a cluster that isn't as it should be is looked at: etcd tells no watcher of its members.
	again = 2 * time.Second
	// look is how often one is looked at that is.
	look = 10 * time.Second
	// patience is for one call to etcd.
	patience = 5 * time.Second
)

type reconciler struct {
	client.Client
	reader client.Reader // past the cache: a pod made a moment ago must be seen
	scheme *runtime.Scheme
}

// Reconcile takes at most one step that changes the membership: etcd must have agreed on one before the next.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	cluster := &EtcdCluster{}
	if err := r.Get(ctx, request.NamespacedName, cluster); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if cluster.DeletionTimestamp != nil {
		return ctrl.Result{}, nil // pods and services are owned and go with it
	}
	if err := r.services(ctx, cluster); err != nil {
		return ctrl.Result{}, err
	}
	pods, err := r.pods(ctx, cluster)
	if err != nil {
		return ctrl.Result{}, err
	}
	status := EtcdClusterStatus{Started: cluster.Status.Started, Members: cluster.Status.Members}
	for _, pod := range pods {
		if isReady(pod) {
			status.Ready++
		}
	}
	settled, err := r.step(ctx, cluster, pods, &status)
	if err != nil {
		status.Message = err.Error()
		logf.FromContext(ctx).Error(err, "taking a step")
	}
	wait := again
	if settled && err == nil {
		wait = look
	}
	if status != cluster.Status {
		cluster.Status = status
		if err := r.Status().Update(ctx, cluster); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: wait}, nil
}

// step compares members with pods. Settled means that there is nothing to do or wait for.
func (r *reconciler) step(ctx context.Context, cluster *EtcdCluster, pods map[string]*corev1.Pod, status *EtcdClusterStatus) (settled bool, err error) {
	switch {
	case !status.Started:
		status.Started = true // recorded now, acted on in the next call
		return false, nil
	case status.Members == 0 && len(pods) == 0:
		name := cluster.Name + "-" + rand.String(5)
		return false, r.createMember(ctx, cluster, name, nil)
	case status.Ready == 0:
		status.Message = "no member answers"
		return false, nil
	}
	etcd, err := connect(ctx, pods)
	if err != nil {
		return false, err
	}
	defer etcd.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := etcd.MemberList(ctx)
	if err != nil {
		return false, fmt.Errorf("listing the members: %w", err)
	}
	status.Members = len(list.Members)
	if lost := findLost(cluster, list.Members, pods); lost != nil {
		return false, r.remove(ctx, etcd, lost, pods)
	}
	if stray := findStray(cluster, list.Members, pods); stray != nil {
		return false, client.IgnoreNotFound(r.Delete(ctx, stray))
	}
	switch {
	case status.Ready < len(list.Members):
		status.Message = "waiting for all members to be ready"
		return false, nil
	case len(list.Members) < cluster.Spec.Size:
		return false, r.add(ctx, etcd, cluster, list.Members)
	case len(list.Members) > cluster.Spec.Size:
		return false, r.remove(ctx, etcd, list.Members[len(list.Members)-1], pods)
	}
	return true, nil
}

// connect uses the members that are ready, by address: names may not be known to DNS yet.
func connect(ctx context.Context, pods map[string]*corev1.Pod) (*clientv3.Client, error) {
	var endpoints []string
	for _, pod := range pods {
		if isReady(pod) {
			endpoints = append(endpoints, "http://"+pod.Status.PodIP+":2379")
		}
	}
	etcd, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: patience, Context: ctx})
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	return etcd, nil
}

// findLost answers a member without a pod that could still be it.
func findLost(cluster *EtcdCluster, members []*etcdserverpb.Member, pods map[string]*corev1.Pod) *etcdserverpb.Member {
	for _, member := range members {
		pod := podOf(cluster, member, pods)
		if pod == nil || hasEnded(pod) {
			return member
		}
	}
	return nil
}

// findStray answers a pod that is no member's, or whose member is lost for good.
func findStray(cluster *EtcdCluster, members []*etcdserverpb.Member, pods map[string]*corev1.Pod) *corev1.Pod {
	taken := map[string]bool{}
	for _, member := range members {
		if pod := podOf(cluster, member, pods); pod != nil {
			taken[pod.Name] = true
		}
	}
	for name, pod := range pods {
		if !taken[name] && pod.DeletionTimestamp == nil {
			return pod
		}
	}
	return nil
}

// podOf goes by the peer's URL: a member that was added and never started has no name.
func podOf(cluster *EtcdCluster, member *etcdserverpb.Member, pods map[string]*corev1.Pod) *corev1.Pod {
	for name, pod := range pods {
		if len(member.PeerURLs) > 0 && member.PeerURLs[0] == peerURL(cluster, name) {
			return pod
		}
	}
	return nil
}

func (r *reconciler) remove(ctx context.Context, etcd *clientv3.Client, member *etcdserverpb.Member, pods map[string]*corev1.Pod) error {
	logf.FromContext(ctx).Info("removing a member", "name", member.Name, "urls", member.PeerURLs)
	if _, err := etcd.MemberRemove(ctx, member.ID); err != nil {
		return fmt.Errorf("removing member %s: %w", member.Name, err)
	}
	if pod, ok := pods[member.Name]; ok && pod.DeletionTimestamp == nil {
		return client.IgnoreNotFound(r.Delete(ctx, pod))
	}
	return nil
}

// add tells etcd of the member first: it must be expected when its pod comes. If the pod can't be made, the member is lost and removed next time.
func (r *reconciler) add(ctx context.Context, etcd *clientv3.Client, cluster *EtcdCluster, members []*etcdserverpb.Member) error {
	name := cluster.Name + "-" + rand.String(5)
	logf.FromContext(ctx).Info("adding a member", "name", name)
	if _, err := etcd.MemberAdd(ctx, []string{peerURL(cluster, name)}); err != nil {
		return fmt.Errorf("adding member %s: %w", name, err)
	}
	return r.createMember(ctx, cluster, name, members)
}

func hasEnded(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func isReady(pod *corev1.Pod) bool {
	if hasEnded(pod) {
		return false
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
