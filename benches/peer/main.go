// Command peer is a minimal admission webhook with controller-runtime that extracts the same images
// as Prewarmer's webhook. tests/measure/webhook.sh compares both.
package main

import (
	"context"
	"flag"
	"net/http"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

type extractor struct{ decoder admission.Decoder }

func (e *extractor) spec(request admission.Request) (*corev1.PodSpec, error) {
	switch request.Kind.Kind {
	case "Deployment":
		object := &appsv1.Deployment{}
		return &object.Spec.Template.Spec, e.decoder.Decode(request, object)
	case "StatefulSet":
		object := &appsv1.StatefulSet{}
		return &object.Spec.Template.Spec, e.decoder.Decode(request, object)
	case "DaemonSet":
		object := &appsv1.DaemonSet{}
		return &object.Spec.Template.Spec, e.decoder.Decode(request, object)
	case "Job":
		object := &batchv1.Job{}
		return &object.Spec.Template.Spec, e.decoder.Decode(request, object)
	case "CronJob":
		object := &batchv1.CronJob{}
		return &object.Spec.JobTemplate.Spec.Template.Spec, e.decoder.Decode(request, object)
	default:
		object := &corev1.Pod{}
		return &object.Spec, e.decoder.Decode(request, object)
	}
}

// images returns the images of all kinds of containers and of image volumes, without duplicates.
func images(spec *corev1.PodSpec) []string {
	seen := map[string]bool{}
	var found []string
	add := func(image string) {
		if image != "" && !seen[image] {
			seen[image] = true
			found = append(found, image)
		}
	}
	for _, container := range spec.InitContainers {
		add(container.Image)
	}
	for _, container := range spec.Containers {
		add(container.Image)
	}
	for _, container := range spec.EphemeralContainers {
		add(container.Image)
	}
	for _, volume := range spec.Volumes {
		if volume.Image != nil {
			add(volume.Image.Reference)
		}
	}
	return found
}

func (e *extractor) Handle(_ context.Context, request admission.Request) admission.Response {
	spec, err := e.spec(request)
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if len(images(spec)) == 0 {
		return admission.Allowed("nothing to warm")
	}
	return admission.Allowed("")
}

func main() {
	port := flag.Int("port", 9443, "port to listen on")
	certificates := flag.String("certificates", "", "directory of tls.crt and tls.key")
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr)))
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		panic(err)
	}
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: *port, CertDir: *certificates})
	handler := &extractor{decoder: admission.NewDecoder(scheme)}
	server.Register("/admit/workloads", &webhook.Admission{Handler: handler})
	if err := server.Start(ctrl.SetupSignalHandler()); err != nil {
		panic(err)
	}
}
