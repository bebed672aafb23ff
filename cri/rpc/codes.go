// Package rpc is what happens around every CRI call, whatever it does: one log line, one metric, one trace, one gRPC code for its error.
//
// It knows no method of the service: what a call does belongs to package cri.
package rpc

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// kind is one row of the table that turns kinds of errors into gRPC codes.
type kind struct {
	err  error
	code codes.Code
}

// kinds is in order of precedence: an error may be of several kinds when errors were joined. What the client did (gave up, asked for
// something impossible) comes first, because it decides whether asking again makes sense.
func kinds() []kind {
	return []kind{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{errdefs.ErrNotFound, codes.NotFound},
		{errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{errdefs.ErrPermissionDenied, codes.PermissionDenied},
		{errdefs.ErrUnauthenticated, codes.Unauthenticated},
		{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{errdefs.ErrNotModified, codes.FailedPrecondition},
		{errdefs.ErrConflict, codes.Aborted},
		{errdefs.ErrAborted, codes.Aborted},
		{errdefs.ErrOutOfRange, codes.OutOfRange},
		{errdefs.ErrNotImplemented, codes.Unimplemented},
		{errdefs.ErrUnavailable, codes.Unavailable},
		{errdefs.ErrDataLoss, codes.DataLoss},
		{errdefs.ErrInternal, codes.Internal},
		{errdefs.ErrUnknown, codes.Unknown},
	}
}

// Error gives an error its gRPC code and leaves its text alone. Errors that have a code keep it; those of no kind are Unknown.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code(err), err.Error())
}

func code(err error) codes.Code {
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			return k.code
		}
	}
	return codes.Unknown
}
