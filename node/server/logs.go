package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/node/containerlog"
)

// containerLogs answers a container's log, as PodLogOptions in the query say.
func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	options, err := logOptions(r.URL.Query())
	if err != nil {
		plainError(w, http.StatusBadRequest, `{"message": "Unable to decode query."}`)
		return
	}
	if !valid(options) {
		plainError(w, http.StatusUnprocessableEntity, `{"message": "Invalid request."}`)
		return
	}
	name, container := r.PathValue("pod"), r.PathValue("container")
	pod, ok := s.Pods.Pod(r.PathValue("namespace"), name)
	if !ok {
		plainError(w, http.StatusNotFound, fmt.Sprintf("pod %q does not exist", name))
		return
	}
	if found, _ := names(pod, container); !found {
		plainError(w, http.StatusNotFound, fmt.Sprintf("container %q not found in pod %q", container, name))
		return
	}
	whole, err := logOf(pod, container, options.Previous)
	if err != nil {
		plainError(w, http.StatusBadRequest, err.Error())
		return
	}
	id := whole[strings.LastIndex(whole, "/")+1:] // without the runtime's name
	answer, err := s.Runtime.ContainerStatus(r.Context(), &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		s.log.Info("a log was asked for of a container that the runtime does not know", "pod", pod.Namespace+"/"+name, "container", container, "id", id, "error", err)
		plainError(w, http.StatusBadRequest, "unable to retrieve container logs for "+whole)
		return
	}
	out := &flushing{buffer: bufio.NewWriterSize(w, 32<<10), answer: w}
	if err := s.copyLog(r.Context(), answer.GetStatus().GetLogPath(), id, options, out); err != nil && r.Context().Err() == nil {
		if !out.begun {
			plainError(w, http.StatusBadRequest, err.Error())
			return
		}
		fmt.Fprint(w, err.Error())
	}
}

func (s *Server) copyLog(ctx context.Context, path, id string, o *corev1.PodLogOptions, out *flushing) error {
	wanted := containerlog.Options{Tail: o.TailLines, Limit: o.LimitBytes, Timestamps: o.Timestamps}
	if o.SinceSeconds != nil {
		wanted.Since = time.Now().Add(-time.Duration(*o.SinceSeconds) * time.Second)
	} else if o.SinceTime != nil {
		wanted.Since = o.SinceTime.Time
	}
	output := containerlog.Output{Flush: out.flush}
	if stream := stream(o); stream != corev1.LogStreamStderr {
		output.Stdout = out
	}
	if stream := stream(o); stream != corev1.LogStreamStdout {
		output.Stderr = out
	}
	if !o.Follow {
		return containerlog.Read(ctx, path, wanted, output)
	}
	return containerlog.Follow(ctx, path, wanted, output, func(ctx context.Context) (bool, error) {
		answer, err := s.Runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
		switch {
		case is(err, codes.Unavailable):
			return true, nil // containers run on while their runtime is replaced
		case is(err, codes.NotFound):
			return false, nil
		case err != nil:
			return false, err
		}
		return answer.GetStatus().GetState() == criv1.ContainerState_CONTAINER_RUNNING, nil
	})
}

func is(err error, code codes.Code) bool {
	var carrier interface{ GRPCStatus() *status.Status }
	return errors.As(err, &carrier) && carrier.GRPCStatus().Code() == code
}

func stream(o *corev1.PodLogOptions) string {
	if o.Stream == nil {
		return corev1.LogStreamAll
	}
	return *o.Stream
}

// flushing sends what was written when there is nothing more for now; begun from the first flush on, with which the answer's header goes out.
type flushing struct {
	buffer *bufio.Writer
	answer http.ResponseWriter
	begun  bool
}

var _ io.Writer = (*flushing)(nil)

func (f *flushing) Write(p []byte) (int, error) {
	f.begun = true
	return f.buffer.Write(p)
}

func (f *flushing) flush() {
	f.begun = true
	_ = f.buffer.Flush() // the next write tells
	_ = http.NewResponseController(f.answer).Flush()
}

// logOptions reads a query. tail is an old name of tailLines.
func logOptions(query url.Values) (*corev1.PodLogOptions, error) {
	if tail := query.Get("tail"); tail != "" {
		query.Set("tailLines", tail)
		if tail == "all" {
			query.Del("tailLines")
		}
	}
	o := &corev1.PodLogOptions{Follow: truth(query, "follow"), Previous: truth(query, "previous"), Timestamps: truth(query, "timestamps")}
	for name, into := range map[string]**int64{"tailLines": &o.TailLines, "limitBytes": &o.LimitBytes, "sinceSeconds": &o.SinceSeconds} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		*into = &number
	}
	if text := query.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("reading sinceTime: %w", err)
		}
		o.SinceTime = &metav1.Time{Time: at}
	}
	if query.Has("stream") {
		stream := query.Get("stream")
		o.Stream = &stream
	}
	return o, nil
}

// truth is Kubernetes' way with booleans in queries: there, and not denied.
func truth(query url.Values, name string) bool {
	value := query.Get(name)
	return query.Has(name) && value != "0" && !strings.EqualFold(value, "false")
}

// valid has the API server's rules.
func valid(o *corev1.PodLogOptions) bool {
	switch {
	case o.TailLines != nil && *o.TailLines < 0, o.LimitBytes != nil && *o.LimitBytes < 1, o.SinceSeconds != nil && *o.SinceSeconds < 1:
		return false
	case o.SinceSeconds != nil && o.SinceTime != nil:
		return false
	}
	switch stream(o) {
	case corev1.LogStreamAll:
		return true
	case corev1.LogStreamStdout, corev1.LogStreamStderr:
		return o.TailLines == nil
	}
	return false
}

// logOf is the ID of the container whose log is meant, from the pod's status; errors are the kubelet's, word for word: they are what kubectl prints.
func logOf(pod *corev1.Pod, name string, previous bool) (string, error) {
	found := containerStatus(pod, name)
	if found == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
	}
	var id string
	last := found.LastTerminationState.Terminated
	before := ""
	if last != nil {
		before = last.ContainerID
	}
	switch state := found.State; {
	case previous:
		if before == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		id = before
	case state.Running != nil:
		id = found.ContainerID
	case state.Terminated != nil:
		if id = state.Terminated.ContainerID; id == "" { // the next one could not be started
			id = before
		}
		if id == "" {
			return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
		}
	case last != nil:
		if id = before; id == "" {
			return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
		}
	case state.Waiting != nil:
		why := state.Waiting.Reason
		switch why {
		case "ErrImagePull":
			why = "image can't be pulled"
		case "ImagePullBackOff":
			why = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, why)
	default:
		return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
	}
	return id, nil
}

func containerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == name {
				return &statuses[i]
			}
		}
	}
	return nil
}
