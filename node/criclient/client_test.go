package criclient

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type refusing struct {
	criv1.UnimplementedRuntimeServiceServer
}

func (refusing) StartContainer(context.Context, *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	return nil, status.Error(codes.NotFound, "no such container")
}

// Errors stand in `shimlet status`: they say what the runtime says, without "rpc error: code = ... desc =", and keep their codes.
func TestErrorsAreTheRuntimesWords(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(server, refusing{})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	client, err := Dial("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.StartContainer(t.Context(), "abc")
	if err == nil || err.Error() != "starting container abc: no such container" || !IsNotFound(err) {
		t.Errorf("StartContainer: %v, not found: %v", err, IsNotFound(err))
	}
	if err := client.StopContainer(t.Context(), "abc", 0); !IsUnimplemented(err) || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("StopContainer: %v", err)
	}
}
