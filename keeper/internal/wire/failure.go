package wire

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
)

// kinds gives each kind of error a number. Only ever append.
func kinds() []error {
	return []error{
		1: errdefs.ErrInvalidArgument, 2: errdefs.ErrNotFound, 3: errdefs.ErrAlreadyExists, 4: errdefs.ErrFailedPrecondition,
		5: errdefs.ErrUnavailable, 6: errdefs.ErrPermissionDenied, 7: errdefs.ErrResourceExhausted, 8: errdefs.ErrNotImplemented,
		9: context.Canceled, 10: context.DeadlineExceeded, 11: errdefs.ErrInternal, 12: errdefs.ErrAborted,
	}
}

// failure is an error that crossed the connection: the other side's words, and its kind for errors.Is.
type failure struct {
	text string
	kind error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.kind }

// EncodeError appends an error's kind and words.
func EncodeError(e *Encoder, err error) {
	number := 0
	for i, kind := range kinds() {
		if kind != nil && errors.Is(err, kind) {
			number = i
			break
		}
	}
	text := err.Error()
	if len(text) > MaxString {
		text = text[:MaxString]
	}
	e.Int32(number)
	e.String(text)
}

// DecodeError reads what EncodeError wrote. An unknown kind is an error of kind unknown.
func DecodeError(d *Decoder) error {
	number, text := d.Int32(), d.String()
	f := &failure{text: text, kind: errdefs.ErrUnknown}
	if all := kinds(); number > 0 && number < len(all) {
		f.kind = all[number]
	}
	return f
}
