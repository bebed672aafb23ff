package rpc

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKindsBecomeCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"ErrUnknown":            {errdefs.ErrUnknown, codes.Unknown},
		"ErrInvalidArgument":    {errdefs.ErrInvalidArgument, codes.InvalidArgument},
		"ErrNotFound":           {errdefs.ErrNotFound, codes.NotFound},
		"ErrAlreadyExists":      {errdefs.ErrAlreadyExists, codes.AlreadyExists},
		"ErrPermissionDenied":   {errdefs.ErrPermissionDenied, codes.PermissionDenied},
		"ErrResourceExhausted":  {errdefs.ErrResourceExhausted, codes.ResourceExhausted},
		"ErrFailedPrecondition": {errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		"ErrConflict":           {errdefs.ErrConflict, codes.Aborted},
		"ErrNotModified":        {errdefs.ErrNotModified, codes.FailedPrecondition},
		"ErrAborted":            {errdefs.ErrAborted, codes.Aborted},
		"ErrOutOfRange":         {errdefs.ErrOutOfRange, codes.OutOfRange},
		"ErrNotImplemented":     {errdefs.ErrNotImplemented, codes.Unimplemented},
		"ErrInternal":           {errdefs.ErrInternal, codes.Internal},
		"ErrUnavailable":        {errdefs.ErrUnavailable, codes.Unavailable},
		"ErrDataLoss":           {errdefs.ErrDataLoss, codes.DataLoss},
		"ErrUnauthenticated":    {errdefs.ErrUnauthenticated, codes.Unauthenticated},
		"deadline":              {context.DeadlineExceeded, codes.DeadlineExceeded},
		"canceled":              {context.Canceled, codes.Canceled},
		"no kind":               {errors.New("?"), codes.Unknown},
		"gRPC's own":            {status.Error(codes.DataLoss, "?"), codes.DataLoss},
		"both":                  {errors.Join(errdefs.ErrUnavailable, context.DeadlineExceeded), codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			if got := status.Code(Error(fmt.Errorf("stopping x: %w", c.err))); got != c.want {
				t.Errorf("code is %v, want %v", got, c.want)
			}
		})
	}
	if Error(nil) != nil {
		t.Error("nil became an error")
	}
	if got := status.Convert(Error(fmt.Errorf("sandbox x: %w", errdefs.ErrNotFound))).Message(); got != "sandbox x: not found" {
		t.Errorf("message is %q", got)
	}
}

// TestTableHasEveryKind reads the kinds that errdefs has now, so that a new one does not become Unknown by accident.
func TestTableHasEveryKind(t *testing.T) {
	pkg, err := build.Import("github.com/containerd/errdefs", ".", build.FindOnly)
	if err != nil {
		t.Skip("the module's source is not at hand: ", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, "errors.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, name := range spec.Names {
				if strings.HasPrefix(name.Name, "Err") {
					declared++
				}
			}
		}
		return true
	})
	if own := len(kinds()) - 2; own != declared { // the two of package context
		t.Errorf("the table has %d kinds of errdefs, which declares %d", own, declared)
	}
}
