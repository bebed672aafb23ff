package manifest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MaxSize bounds a pod file, in bytes. It is what an API server accepts by default (1.5 MiB), and keeps a stray file from filling the memory.
const MaxSize = 3 << 19

// Source is where a pod comes from. It is part of the pod's identity: the same file under another name, or on another node, is another pod.
type Source struct {
	Node string // the node's name
	File string // the file's name within its folder
}

// Decode reads one pod. The answer has its defaults and its UID. An error is of the kind errdefs.ErrInvalidArgument, and names all
// unknown fields and all fields that this node does not honour, not only the first.
func Decode(source Source, data []byte) (*corev1.Pod, error) {
	pod, err := decode(source, data)
	if err != nil {
		return nil, fmt.Errorf("reading the pod file %s: %w", source.File, err)
	}
	return pod, nil
}

func decode(source Source, data []byte) (*corev1.Pod, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("it has %d bytes, more than %d: %w", len(data), MaxSize, errdefs.ErrInvalidArgument)
	}
	document, err := onlyDocument(data)
	if err != nil {
		return nil, err
	}
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, fmt.Errorf("it is neither YAML nor JSON: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var written any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &written); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := isPod(written); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	unknown, err := kjson.UnmarshalStrict(text, pod)
	if err != nil {
		return nil, fmt.Errorf("it does not have the form of a Pod: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("%w: %w", errors.Join(unknown...), errdefs.ErrInvalidArgument)
	}
	if refused := Unhonoured(written); len(refused) > 0 {
		return nil, fmt.Errorf("fields not supported here: %s: %w", strings.Join(refused, ", "), errdefs.ErrInvalidArgument)
	}
	setDefaults(pod)
	if problems := validate(pod, source); len(problems) > 0 {
		return nil, fmt.Errorf("%s: %w", strings.Join(problems, "; "), errdefs.ErrInvalidArgument)
	}
	pod.UID, err = identity(source, written)
	return pod, err
}

// onlyDocument takes the single YAML document of a file. Silently running the first of several would hide the others.
func onlyDocument(data []byte) ([]byte, error) {
	var found []byte
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("it is not YAML: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if isBlank(document) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("it holds several YAML documents; give each pod a file of its own: %w", errdefs.ErrInvalidArgument)
		}
		found = document
	}
	if found == nil {
		return nil, fmt.Errorf("it is empty: %w", errdefs.ErrInvalidArgument)
	}
	return found, nil
}

func isBlank(document []byte) bool {
	for line := range bytes.Lines(document) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func isPod(written any) error {
	object, ok := written.(map[string]any)
	if !ok {
		return fmt.Errorf("it holds no object: %w", errdefs.ErrInvalidArgument)
	}
	if object["apiVersion"] != "v1" || object["kind"] != "Pod" {
		return fmt.Errorf("it holds apiVersion %v, kind %v; only v1, Pod can run: %w", object["apiVersion"], object["kind"], errdefs.ErrInvalidArgument)
	}
	return nil
}

// identity is a hash of what is written in the file, not of its bytes, so that a comment changes nothing; and not of the defaulted
// pod, so that a newer shimlet with other defaults restarts nothing.
func identity(source Source, written any) (types.UID, error) {
	canonical, err := json.Marshal(written) // sorts keys
	if err != nil {
		return "", fmt.Errorf("computing the pod's identity: %w", err)
	}
	hash := sha256.New()
	for _, part := range [][]byte{[]byte(source.Node), []byte(source.File), canonical} {
		fmt.Fprintf(hash, "%d:", len(part))
		hash.Write(part)
	}
	return types.UID(hex.EncodeToString(hash.Sum(nil)[:16])), nil
}
