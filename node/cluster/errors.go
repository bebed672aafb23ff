package cluster

import (
	"github.com/containerd/errdefs"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// kinded is an error of the API server with its kind. Its words stay what they were: they end up in statuses and events of pods, where people
// and tests look for the kubelet's.
type kinded struct{ err, kind error }

func (e kinded) Error() string   { return e.err.Error() }
func (e kinded) Unwrap() []error { return []error{e.err, e.kind} }

// kind gives an error of client-go its kind. All that is no answer of the API server's is ErrUnavailable.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return kinded{err, errdefs.ErrNotFound}
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return kinded{err, errdefs.ErrPermissionDenied}
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return kinded{err, errdefs.ErrAlreadyExists}
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return kinded{err, errdefs.ErrInvalidArgument}
	default:
		return kinded{err, errdefs.ErrUnavailable}
	}
}
