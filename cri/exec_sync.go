package cri

import (
	"context"
	"errors"
	"fmt"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/cri/translate"
	"github.com/shimd/shimd/runtime"
)

// maxOutput is what ExecSync's two outputs may take together, so that the answer fits into a message (CVE-2022-31030, CVE-2022-1708:
// the runtime bounds what it keeps in memory; this bounds what is sent).
const maxOutput = maxMessage - 4<<10

// ExecSync runs a command and answers its output and exit code. A command that takes longer than its timeout is DeadlineExceeded: the kubelet
// takes that code, and no other, for a probe that timed out.
func (s *runtimeService) ExecSync(ctx context.Context, req *criv1.ExecSyncRequest) (*criv1.ExecSyncResponse, error) {
	timeout, err := translate.ExecSync(req)
	if err != nil {
		return nil, err
	}
	stdout, stderr, code, err := s.runtime.ExecSync(ctx, runtime.ContainerID(req.GetContainerId()), req.GetCmd(), timeout)
	if errors.Is(err, context.DeadlineExceeded) && timeout > 0 {
		// Arguments may be secrets: the command's name must do.
		return nil, fmt.Errorf("command %q timed out after %s: %w", req.GetCmd()[0], timeout, err)
	}
	if err != nil {
		return nil, err
	}
	stdout, stderr = cutOutputs(stdout, stderr, maxOutput)
	return &criv1.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// cutOutputs shortens the two to limit bytes together, taking from the longer one first.
func cutOutputs(stdout, stderr []byte, limit int) ([]byte, []byte) {
	if len(stdout)+len(stderr) <= limit {
		return stdout, stderr
	}
	out := min(len(stdout), max(limit-len(stderr), limit/2))
	return stdout[:out], stderr[:min(len(stderr), limit-out)]
}
