package register

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The lease is the heartbeat: the node controller takes a node whose lease has ended for dead. component-helpers' controller of leases is not used: it
// wants client-go's whole clientset (package api).
//
//	      ┌──renewed: wait a quarter of its life──┐
//	(none)─>made or found─>update ────────────────┘
//	             ^            │ somebody else wrote it, or it is gone
//	             └────────────┘

// beat renews the node's lease until the context ends.
func (r *Registration) beat(ctx context.Context) {
	const first, last = 200 * time.Millisecond, 7 * time.Second
	every := time.Duration(r.o.Config.NodeLeaseDurationSeconds) * time.Second / 4
	var lease *coordinationv1.Lease
	for delay := first; ; {
		renewed, err := r.renew(ctx, lease)
		wait := every + rand.N(every/25) // nodes that came together drift apart
		if lease = renewed; err == nil {
			delay = first
		} else {
			if ctx.Err() == nil {
				r.o.Log.Warn("renewing the node's lease; it will be tried again", "error", err)
			}
			wait, delay = min(delay, every), min(2*delay, last)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// renew renews the lease as it was last, or looks for it, or makes it; it returns the lease as it is then, nil where that isn't known.
func (r *Registration) renew(ctx context.Context, last *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	leases := r.o.Client.Leases(corev1.NamespaceNodeLease)
	if last == nil {
		found, err := leases.Get(ctx, r.o.Identity.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			made, err := leases.Create(ctx, r.renewed(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
				Name: r.o.Identity.Name, Namespace: corev1.NamespaceNodeLease,
			}}), metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("making the lease: %w", err)
			}
			return made, nil
		case err != nil:
			return nil, fmt.Errorf("asking for the lease: %w", err)
		}
		last = found
	}
	renewed, err := leases.Update(ctx, r.renewed(last), metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the lease is not what it was: %w", err)
	case err != nil:
		return last, err
	}
	return renewed, nil
}

// renewed is a lease with a new time, owned by the node so that it goes with it.
func (r *Registration) renewed(lease *coordinationv1.Lease) *coordinationv1.Lease {
	lease = lease.DeepCopy()
	lease.Spec.HolderIdentity = ptr.To(r.o.Identity.Name)
	lease.Spec.LeaseDurationSeconds = ptr.To(r.o.Config.NodeLeaseDurationSeconds)
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	r.mu.Lock()
	uid := r.uid
	r.mu.Unlock()
	if len(lease.OwnerReferences) == 0 && uid != "" {
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.o.Identity.Name, UID: uid}}
	}
	return lease
}
